import { type SpawnSyncReturns, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, describe, expect, test } from 'vitest';
import { ImageLayout } from '../src/oci/image-layout.ts';
import { type Descriptor, encodeJson, parseManifest } from '../src/oci/manifest.ts';
import { OCI_CONFIG, OCI_INDEX, OCI_MANIFEST } from '../src/oci/media-types.ts';
import { writeBigLayer } from './support/big-layer.ts';
import { requireCapability } from './support/capabilities.ts';
import { putOneLayerImage } from './support/one-layer-image.ts';

const MAIN = resolve(import.meta.dirname, '../src/cli/main.ts');
const GOLDEN = resolve(import.meta.dirname, 'golden');
const COMMANDS = [
  ...['proxy', 'mount', 'umount', 'convert', 'conversions', 'preheat', 'cache', 'gc'],
  ...['node', 'mesh', 'root', 'doctor', 'setup', 'inspect'],
];

const work = mkdtempSync(join(tmpdir(), 'dadi-cli-'));
afterAll(() => rmSync(work, { recursive: true, force: true }));

function dadi(args: readonly string[], env: Record<string, string> = {}): SpawnSyncReturns<string> {
  return spawnSync(process.execPath, [MAIN, ...args], { encoding: 'utf8', env: { ...process.env, ...env } });
}

describe('help and usage', () => {
  test('the help names every command', () => {
    const { status, stdout } = dadi(['--help']);
    expect(status).toBe(0);
    for (const command of COMMANDS) expect(stdout).toMatch(new RegExp(`^  ${command} `, 'm'));
  });

  test.each([
    [['frobnicate']],
    [['inspect']],
    [['convert', 'oci:a', 'not-a-layout']],
    [['mount', '--no-such-flag']],
    [['conversions', '--state', 'broken']],
    [['conversions', 'retry']],
    [['proxy', '--limit', 'layerEntries']],
    [['proxy', '--limit', 'entries=5']],
  ])('wrong usage %j ends with exit code 2', (args) => {
    const { status, stderr } = dadi(args);
    expect(status).toBe(2);
    expect(stderr).not.toBe('');
  });

  test('a name that every JavaScript object has is no command', () => {
    expect(dadi(['constructor']).status).toBe(2);
  });
});

describe('dadi proxy: configuration', () => {
  const file = join(work, 'proxy.yaml');
  const check = (text: string, flags: readonly string[] = [], env: Record<string, string> = {}) => {
    writeFileSync(file, text);
    return dadi(['proxy', '--check-config', '--config', file, ...flags], env);
  };

  test('limits come from file, environment and flags, with units', () => {
    const text = 'conversion: {limits: {pathDepth: 7, imageLayers: 5}}';
    const { stdout } = check(text, ['--limit', 'imageLayers=6', '--limit', 'layerBytes=1.5G']);
    const { limits } = JSON.parse(stdout).conversion;
    expect(limits).toMatchObject({ pathDepth: 7, imageLayers: 6, layerBytes: 1_500_000_000 });
    const both = check(text, [], { DADI_PROXY_LIMIT: 'imageSeconds=9, pathDepth=8' });
    expect(JSON.parse(both.stdout).conversion.limits).toMatchObject({ imageSeconds: 9, pathDepth: 8 });
  });

  test('the example in the help is a configuration', () => {
    const { stdout: help } = dadi(['proxy', '--help']);
    const example = help.slice(help.indexOf('  listen:'), help.indexOf('\nLimits'));
    expect(example).toContain('upstreams:');
    const { stdout } = check(example);
    expect(JSON.parse(stdout)).toMatchObject({
      access: { mode: 'basic' },
      storage: { kind: 's3' },
      catalog: { kind: 'postgres' },
      cache: { maxAgeMs: 2_592_000_000 },
      conversion: { limits: { layerEntries: 10_000_000 } },
    });
  });

  test('flags win over the environment, that over the file', () => {
    const text = 'listen: 127.0.0.1:1\ntagTtlMs: 1000\nconversion: {level: 1, blockSize: 4096}\n';
    const { status, stdout } = check(text, ['--listen', '127.0.0.1:3', '--level', '5'], {
      DADI_PROXY_LISTEN: '127.0.0.1:2',
      DADI_PROXY_TAG_TTL: '7',
      DADI_PROXY_UPSTREAM: 'quay.io,ghcr.io=https://mirror.example.com',
    });
    expect(status).toBe(0);
    expect(JSON.parse(stdout)).toMatchObject({
      listen: { host: '127.0.0.1', port: 3 },
      tagTtlMs: 7000,
      upstreams: [{ name: 'quay.io' }, { name: 'ghcr.io', url: 'https://mirror.example.com' }],
      defaultUpstream: 'quay.io',
      conversion: { enabled: true, algorithm: 'zstd', level: 5, blockSize: 4096 },
    });
  });

  test('passwords are not printed', () => {
    const { stdout } = check('upstreams: [{name: quay.io, credentials: {username: me, password: geheim}}]');
    expect(stdout).toContain('quay.io');
    expect(stdout).not.toContain('geheim');
  });

  test.each([
    ['lisen: 127.0.0.1:1', 'lisen'],
    ['conversion: {blockSize: 5000}', 'conversion.blockSize'],
    ['upstreams: [{name: quay.io}]\ndefaultUpstream: docker.io', 'defaultUpstream'],
  ])('what is wrong in it is named: %s', (text, named) => {
    const { status, stderr } = check(text);
    expect(status).toBe(1);
    expect(stderr).toContain(named);
  });

  test('a file that is not there, or is not YAML, is an error that names it', () => {
    const missing = dadi(['proxy', '--check-config', '--config', join(work, 'missing.yaml')]);
    expect([missing.status, missing.stderr.includes('missing.yaml')]).toEqual([1, true]);
    const broken = check('a: [1');
    expect([broken.status, broken.stderr.includes('proxy.yaml')]).toEqual([1, true]);
  });
});

test('dadi node: the example in the help is a configuration', () => {
  const { stdout: help } = dadi(['node', '--help']);
  const file = join(work, 'node.yaml');
  writeFileSync(file, help.slice(help.indexOf('  proxies:'), help.indexOf('\nSIGTERM')));
  const { stdout } = dadi(['node', '--check-config', '--config', file]);
  expect(JSON.parse(stdout)).toMatchObject({
    proxies: ['https://dadi-1.example.com/', 'https://dadi-2.example.com/'],
    mesh: { zone: 'rack-7', security: { kind: 'shared-secret' } },
    admin: { listen: { port: 6012 } },
  });
});

describe('dadi inspect', () => {
  test('shows what a layer of the stock tools holds', () => {
    const path = join(GOLDEN, 'ext4/layer1.lz4-16k.tar.obd');
    const { status, stdout } = dadi(['inspect', path, '--json']);
    expect(status).toBe(0);
    expect(JSON.parse(stdout)).toMatchObject({
      kind: 'layer',
      blobBytes: 783_872,
      zfile: { algorithm: 'lz4', blockBytes: 16_384, checksums: true },
      lsmt: { parentUuid: null },
      erofs: null,
      space: null,
    });
    const table = dadi(['inspect', path]).stdout;
    expect(table).toMatch(/lz4, \d+ blocks of 16 KiB/);
  });

  test('a file that is no layer, and a layout that is not there, are errors with exit code 1', () => {
    const noLayer = dadi(['inspect', MAIN]);
    expect([noLayer.status, noLayer.stderr]).toEqual([1, expect.stringContaining('no overlaybd layer')]);
    const noLayout = dadi(['inspect', `oci:${join(work, 'nowhere')}`]);
    expect([noLayout.status, noLayout.stderr]).toEqual([1, expect.stringContaining('nowhere')]);
  });
});

describe('dadi convert', () => {
  test('leaves nothing behind when the source is not there', () => {
    const { status, stderr } = dadi([
      'convert',
      `oci:${join(work, 'nowhere')}`,
      `oci:${join(work, 'a/out')}`,
    ]);
    expect([status, stderr]).toEqual([1, expect.stringContaining('nowhere')]);
    expect(existsSync(join(work, 'a'))).toBe(false);
  });

  test.skipIf(!requireCapability('skopeo'))(
    'converts the images of an index and leaves its attestation as it is',
    async () => {
      const source = join(work, 'multi');
      const entries: Descriptor[] = [];
      for (const architecture of ['amd64', 'arm64']) {
        const path = join(work, `${architecture}.tar.gz`);
        const { diffId } = await writeBigLayer(path, { bytes: 0, smallFiles: architecture.length });
        const image = await putOneLayerImage(source, path, diffId, architecture);
        entries.push({ ...image, platform: { os: 'linux', architecture } });
      }
      const layout = await ImageLayout.open(source);
      const attestation = await putAttestation(layout, entries[0]!.digest);
      const index = encodeJson({
        schemaVersion: 2,
        mediaType: OCI_INDEX,
        manifests: [...entries, attestation],
      });
      const original = { mediaType: OCI_INDEX, digest: await layout.putBlob(index), size: index.length };
      await layout.tag('all', original);

      const target = join(work, 'multi-converted');
      expect(dadi(['convert', `oci:${source}:all`, `oci:${target}:all`])).toMatchObject({ status: 0 });
      // Fails if the index names anything that is not there.
      const copy = [
        'copy',
        '--insecure-policy',
        '--all',
        `oci:${target}:all`,
        `oci:${join(work, 'copied')}:all`,
      ];
      expect(spawnSync('skopeo', copy, { encoding: 'utf8' })).toMatchObject({ status: 0 });

      const { bytes, descriptor } = await (await ImageLayout.open(target)).resolve('all');
      const converted = parseManifest(bytes, descriptor.mediaType);
      if (converted.kind !== 'index') throw new Error(`not an index but ${converted.kind}`);
      expect(converted.subject).toEqual(original);
      expect(converted.manifests.map(({ platform }) => platform?.architecture)).toEqual([
        'amd64',
        'arm64',
        'unknown',
      ]);
      expect(converted.manifests[2]).toEqual(attestation);
      expect(converted.manifests[0]?.digest).not.toBe(entries[0]?.digest);

      const one = dadi([
        'convert',
        `oci:${source}:all`,
        `oci:${target}:one`,
        '--platform',
        'linux/arm64',
        '--json',
      ]);
      expect(JSON.parse(one.stdout)).toMatchObject({ images: [{ platform: 'linux/arm64' }] });
      const none = dadi(['convert', `oci:${source}:all`, `oci:${target}:none`, '--platform', 'linux/s390x']);
      expect([none.status, none.stderr]).toEqual([1, expect.stringContaining('linux/amd64, linux/arm64')]);
    },
  );

  test('leaves no temporary file behind when it is interrupted', async () => {
    const layer = join(work, 'layer.tar.gz');
    const { diffId } = await writeBigLayer(layer, { bytes: 150_000_000, smallFiles: 1000 });
    await putOneLayerImage(join(work, 'source'), layer, diffId);
    const parent = join(work, 'b');
    mkdirSync(parent);
    const child = spawn(
      process.execPath,
      [MAIN, 'convert', `oci:${join(work, 'source')}`, `oci:${parent}/out`],
      {
        stdio: 'ignore',
      },
    );
    const isWorking = () => readdirSync(parent).some((name) => name.startsWith('.dadi-convert-'));
    while (!isWorking()) await sleep(20);
    await sleep(200);
    child.kill('SIGINT');
    const [code] = await once(child, 'exit');
    expect(code).toBe(1);
    expect(isWorking()).toBe(false);
  });
});

/** As BuildKit adds them to an index, for the image that `subject` names. */
async function putAttestation(layout: ImageLayout, subject: string): Promise<Descriptor> {
  const put = async (mediaType: string, content: object) => {
    const bytes = encodeJson(content);
    return { mediaType, digest: await layout.putBlob(bytes), size: bytes.length };
  };
  const manifest = await put(OCI_MANIFEST, {
    schemaVersion: 2,
    mediaType: OCI_MANIFEST,
    config: await put(OCI_CONFIG, {
      architecture: 'unknown',
      os: 'unknown',
      rootfs: { type: 'layers', diff_ids: [] },
    }),
    layers: [await put('application/vnd.in-toto+json', { about: subject })],
  });
  return {
    ...manifest,
    annotations: {
      'vnd.docker.reference.type': 'attestation-manifest',
      'vnd.docker.reference.digest': subject,
    },
    platform: { os: 'unknown', architecture: 'unknown' },
  };
}
