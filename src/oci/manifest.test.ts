import fc from 'fast-check';
import { expect, test } from 'vitest';
import { digestOf } from './digest.ts';
import { encodeJson, MAX_MANIFEST_BYTES, parseImageConfig, parseManifest } from './manifest.ts';
import {
  DOCKER_CONFIG,
  DOCKER_MANIFEST,
  DOCKER_MANIFEST_LIST,
  OCI_CONFIG,
  OCI_EMPTY,
  OCI_INDEX,
  OCI_LAYER_TAR,
  OCI_MANIFEST,
} from './media-types.ts';

const descriptor = (mediaType: string) => ({
  mediaType,
  digest: digestOf(mediaType),
  size: mediaType.length,
});
const image = (extra: object = {}) => ({
  schemaVersion: 2,
  config: descriptor(OCI_CONFIG),
  layers: [descriptor(OCI_LAYER_TAR)],
  ...extra,
});
const index = (extra: object = {}) => ({ schemaVersion: 2, manifests: [descriptor(OCI_MANIFEST)], ...extra });
const bytesOf = (value: unknown) => Buffer.from(JSON.stringify(value, null, 3));
const kindOf = (value: unknown, mediaType?: string) => parseManifest(bytesOf(value), mediaType).kind;
const failsWith = (code: string) => expect.objectContaining({ code });

test('an OCI image manifest is read and its bytes are kept as they came', () => {
  const subject = { ...descriptor(OCI_MANIFEST), size: 7 };
  const bytes = bytesOf(image({ mediaType: OCI_MANIFEST, subject, annotations: { a: 'b' }, unknown: 1 }));
  const manifest = parseManifest(bytes, `${OCI_MANIFEST}; charset=utf-8`);
  expect(manifest).toMatchObject({
    kind: 'image',
    mediaType: OCI_MANIFEST,
    config: descriptor(OCI_CONFIG),
    layers: [descriptor(OCI_LAYER_TAR)],
    subject,
    annotations: { a: 'b' },
    artifactType: null,
  });
  expect(manifest.bytes).toBe(bytes);
});

test('Docker manifests and lists, OCI indexes are read, with fields of descriptors that nobody here knows', () => {
  const docker = image({ mediaType: DOCKER_MANIFEST, config: descriptor(DOCKER_CONFIG) });
  expect(kindOf(docker, DOCKER_MANIFEST)).toBe('image');
  expect(kindOf(index({ mediaType: DOCKER_MANIFEST_LIST }), DOCKER_MANIFEST_LIST)).toBe('index');
  const platform = { os: 'windows', architecture: 'amd64', 'os.version': '10.0' };
  const entry = { ...descriptor(OCI_MANIFEST), platform, data: 'e30=' };
  const parsed = parseManifest(bytesOf(index({ manifests: [entry] })), OCI_INDEX);
  expect(parsed.kind === 'index' && parsed.manifests[0]).toEqual(entry);
});

test('a content type that says nothing, or none, leaves the decision to the body', () => {
  for (const type of [undefined, 'application/json', 'text/plain; charset=utf-8', '']) {
    expect(parseManifest(bytesOf(image()), type).mediaType).toBe(OCI_MANIFEST);
    expect(parseManifest(bytesOf(index()), type).mediaType).toBe(OCI_INDEX);
    expect(parseManifest(bytesOf(image({ mediaType: DOCKER_MANIFEST })), type).mediaType).toBe(
      DOCKER_MANIFEST,
    );
  }
});

test('what is no runnable image is an artifact: by its config, or by layers that are no file systems', () => {
  expect(kindOf(image({ config: descriptor(OCI_EMPTY), artifactType: 'application/x' }))).toBe('artifact');
  expect(kindOf(image({ config: descriptor('application/vnd.cncf.helm.config.v1+json') }))).toBe('artifact');
  expect(kindOf(image({ layers: [descriptor('application/vnd.in-toto+json')] }))).toBe('artifact');
  expect(kindOf(image({ layers: [], artifactType: 'application/x' }))).toBe('artifact');
});

test('an image without layers, and an image with an artifactType, are images', () => {
  expect(kindOf(image({ layers: [] }))).toBe('image');
  const overlaybd = parseManifest(bytesOf(image({ artifactType: 'application/x' })));
  expect([overlaybd.kind, overlaybd.artifactType]).toEqual(['image', 'application/x']);
});

test('Docker schema 1 is refused by name', () => {
  const schema1 = bytesOf({ schemaVersion: 1, fsLayers: [], history: [] });
  expect(() => parseManifest(schema1)).toThrow(failsWith('ERR_MANIFEST_UNSUPPORTED'));
  expect(() => parseManifest(schema1)).toThrow(/schema 1/);
  const prettyjws = 'application/vnd.docker.distribution.manifest.v1+prettyjws';
  expect(() => parseManifest(bytesOf(image()), prettyjws)).toThrow(/schema 1/);
});

test.each<[string, unknown, string | undefined]>([
  ['no JSON', undefined, undefined],
  ['no object', [], undefined],
  ['another schema version', { ...image(), schemaVersion: 3 }, undefined],
  ['image and index at once', { ...image(), ...index() }, undefined],
  ['image by header, index by body', index(), OCI_MANIFEST],
  ['index by header, image by body', image(), OCI_INDEX],
  ['another type in the body', image({ mediaType: DOCKER_MANIFEST }), OCI_MANIFEST],
  ['neither image nor index', { schemaVersion: 2 }, undefined],
  ['a digest that is none', image({ config: { ...descriptor(OCI_CONFIG), digest: 'sha256:0' } }), undefined],
  ['a negative size', image({ config: { ...descriptor(OCI_CONFIG), size: -1 } }), undefined],
  ['a fraction as size', image({ layers: [{ ...descriptor(OCI_LAYER_TAR), size: 1.5 }] }), undefined],
])('a manifest with %s is refused', (_what, value, mediaType) => {
  const bytes = value === undefined ? Buffer.from('{') : bytesOf(value);
  expect(() => parseManifest(bytes, mediaType)).toThrow(failsWith('ERR_MANIFEST_INVALID'));
});

test('an error names the place in the manifest', () => {
  const broken = bytesOf(image({ layers: [descriptor('a'), { ...descriptor('b'), size: 'big' }] }));
  expect(() => parseManifest(broken)).toThrow(/layers\.1\.size/);
});

test('other manifest types are unsupported, and oversized ones are not even parsed', () => {
  const type = 'application/vnd.oci.artifact.manifest.v1+json';
  expect(() => parseManifest(bytesOf(image()), type)).toThrow(failsWith('ERR_MANIFEST_UNSUPPORTED'));
  const padded = Buffer.concat([bytesOf(image()), Buffer.alloc(MAX_MANIFEST_BYTES, ' ')]);
  expect(() => parseManifest(padded)).toThrow(failsWith('ERR_MANIFEST_TOO_BIG'));
});

test('hostile bytes give an OciError and nothing else', () => {
  fc.assert(
    fc.property(fc.json(), (json) => {
      expect(() => parseManifest(Buffer.from(json))).toThrow(expect.objectContaining({ name: 'OciError' }));
    }),
  );
});

test('JSON that is nested too deeply to be written again is refused', () => {
  const deep = `${'['.repeat(20_000)}${']'.repeat(20_000)}`;
  const manifest = Buffer.from(`{"schemaVersion":${deep}}`);
  expect(() => parseManifest(manifest)).toThrow(failsWith('ERR_MANIFEST_INVALID'));
  const config = Buffer.from(`{"rootfs":{"type":"layers","diff_ids":[]},"config":${deep}}`);
  expect(() => parseImageConfig(config)).toThrow(failsWith('ERR_CONFIG_INVALID'));
});

test('an image configuration gives platform, diff IDs and all of the JSON', () => {
  const raw = {
    os: 'linux',
    architecture: 'arm',
    variant: 'v6',
    rootfs: { type: 'layers', diff_ids: [digestOf('a')] },
    config: { Cmd: ['sh'] },
  };
  expect(parseImageConfig(bytesOf(raw))).toEqual({
    os: 'linux',
    architecture: 'arm',
    variant: 'v6',
    rootfs: { diff_ids: [digestOf('a')] },
    raw,
  });
  const nullIds = bytesOf({ ...raw, rootfs: { type: 'layers', diff_ids: null } });
  expect(parseImageConfig(nullIds).rootfs.diff_ids).toEqual([]);
});

test.each([{}, { rootfs: { type: 'other', diff_ids: [] } }, { rootfs: { type: 'layers', diff_ids: ['x'] } }])(
  'an image configuration %j is refused',
  (value) => {
    expect(() => parseImageConfig(bytesOf(value))).toThrow(failsWith('ERR_CONFIG_INVALID'));
  },
);

test('JSON we write depends on the value only, not on the order in which it was made', () => {
  expect(encodeJson({ b: [{ d: 1, c: undefined }], a: 'x' }).toString()).toBe('{"a":"x","b":[{"d":1}]}');
  fc.assert(
    fc.property(fc.dictionary(fc.string(), fc.jsonValue()), (value) => {
      const reversed = Object.fromEntries(Object.entries(value).reverse());
      expect(encodeJson(reversed)).toEqual(encodeJson(value));
      expect(JSON.parse(encodeJson(value).toString())).toEqual(JSON.parse(JSON.stringify(value)));
    }),
  );
});
