import { expect, test } from 'vitest';
import { digestOf } from './digest.ts';
import { type Descriptor, encodeJson, type IndexManifest, parseManifest } from './manifest.ts';
import { OCI_MANIFEST } from './media-types.ts';
import { defaultPlatform, isAttestation, selectPlatform } from './platform.ts';

/** An index with an entry for each of the texts `os/architecture[/variant]`; an empty one names no platform. */
function indexOf(...platforms: string[]): IndexManifest {
  const manifests = platforms.map((text) => {
    const [os, architecture, variant] = text.split('/');
    const platform = text === '' ? {} : { platform: { os, architecture, variant } };
    return { mediaType: OCI_MANIFEST, digest: digestOf(text), size: 1, ...platform };
  });
  return asIndex({ manifests });
}

function asIndex(value: object): IndexManifest {
  const parsed = parseManifest(encodeJson({ schemaVersion: 2, ...value }));
  if (parsed.kind !== 'index') throw new Error('not an index');
  return parsed;
}

const select = (index: IndexManifest, text: string): Descriptor => {
  const [os = '', architecture = '', variant] = text.split('/');
  return selectPlatform(index, { os, architecture, variant });
};

test.each([
  ['linux/arm64', ['linux/amd64', 'linux/arm64/v8', 'linux/arm/v7'], 'linux/arm64/v8'],
  ['linux/arm64/v8', ['linux/arm64'], 'linux/arm64'],
  ['linux/amd64', ['linux/amd64/v3', 'linux/amd64', 'windows/amd64'], 'linux/amd64'],
  ['linux/amd64/v3', ['linux/amd64', 'linux/amd64/v3', 'linux/amd64/v2', 'linux/amd64/v4'], 'linux/amd64/v3'],
  ['linux/arm', ['linux/arm/v5', 'linux/arm/v6'], 'linux/arm/v6'],
  ['linux/amd64', [''], ''],
])('for %s out of %j it is %j', (wanted, offered, expected) => {
  expect(select(indexOf(...offered), wanted).digest).toBe(digestOf(expected));
});

test.each([
  ['linux/arm/v6', ['linux/arm/v7']],
  ['linux/amd64', ['linux/arm64', 'windows/amd64']],
  ['linux/amd64', ['', '']],
  ['linux/amd64', []],
])('for %s out of %j there is none', (wanted, offered) => {
  const expected = expect.objectContaining({ code: 'ERR_PLATFORM_NOT_FOUND' });
  expect(() => select(indexOf(...offered), wanted)).toThrow(expected);
});

test('the error names what the index has', () => {
  expect(() => select(indexOf('linux/arm/v7', 'linux/s390x'), 'linux/amd64')).toThrow(
    'linux/amd64; it has linux/arm/v7, linux/s390x',
  );
});

test('an attestation is never selected', () => {
  const entry = { mediaType: OCI_MANIFEST, digest: digestOf('x'), size: 1 };
  const annotations = { 'vnd.docker.reference.type': 'attestation-manifest' };
  const index = asIndex({
    manifests: [
      { ...entry, annotations },
      { ...entry, annotations, platform: defaultPlatform() },
    ],
  });
  expect(index.manifests.map(isAttestation)).toEqual([true, true]);
  expect(() => selectPlatform(index)).toThrow(expect.objectContaining({ code: 'ERR_PLATFORM_NOT_FOUND' }));
});
