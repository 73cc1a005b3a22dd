import { spawnSync } from 'node:child_process';
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { gzipSync } from 'node:zlib';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test, vi } from 'vitest';
import { type Digest, digestOf } from '../src/oci/digest.ts';
import { ImageLayout } from '../src/oci/image-layout.ts';
import type { ConversionStatus } from '../src/proxy/conversion/conversion-status.ts';
import { requireCapability } from './support/capabilities.ts';
import { pushImage } from './support/images.ts';
import { putOneLayerImage } from './support/one-layer-image.ts';
import { run } from './support/processes.ts';
import { type Registry, startRegistry } from './support/registry.ts';
import { END_BLOCKS, paxHeader, tarHeader, tarMember } from './support/tar-blocks.ts';
import { TestProxy } from './support/test-proxy.ts';

const MAIN = resolve(import.meta.dirname, '../src/cli/main.ts');
const ZEROS_BYTES = 2 ** 30;

const work = mkdtempSync(join(tmpdir(), 'dadi-limits-'));
afterAll(() => rmSync(work, { recursive: true, force: true }));

/** A gzip of a file of a GiB of zeros: about a MB. Its members are the same 16 MiB, over and over. */
function zeros(): Buffer {
  const member = gzipSync(Buffer.alloc(2 ** 24));
  const header = gzipSync(tarHeader({ path: 'zeros', size: ZEROS_BYTES }));
  return Buffer.concat([header, ...Array(ZEROS_BYTES / 2 ** 24).fill(member), gzipSync(END_BLOCKS)]);
}

function gzipOf(...parts: readonly Buffer[]): Buffer {
  return gzipSync(Buffer.concat([...parts, END_BLOCKS]), { level: 1 });
}

/** Members with names of some hundred bytes, each of them in one block of the archive's compressed form. */
function entries(count: number, nameBytes: number): Buffer {
  const name = (index: number) => `${index}-`.padEnd(nameBytes, 'n');
  const member = (index: number) =>
    nameBytes < 100
      ? tarHeader({ path: name(index) })
      : Buffer.concat([paxHeader([['path', `${name(index)}/x`]]), tarHeader({ path: 'x' })]);
  return Buffer.concat(Array.from({ length: count }, (_, index) => member(index)));
}

/** A sparse file in GNU tar's pax form 1.0 that is a hole from end to end. */
function hole(size: string): Buffer {
  const records = [
    ['GNU.sparse.major', '1'],
    ['GNU.sparse.minor', '0'],
    ['GNU.sparse.name', 'hole'],
    ['GNU.sparse.realsize', size],
  ] as const;
  return Buffer.concat([paxHeader(records), tarMember({ path: 'hole' }, '0\n'.padEnd(512, '\0'))]);
}

/** Of a layer whose diff ID is a lie: what reads it to the end says so. */
async function imageOf(name: string, layer: Buffer): Promise<string> {
  const file = join(work, `${name}.layer`);
  writeFileSync(file, layer);
  const layout = join(work, `${name}.image`);
  await putOneLayerImage(layout, file, digestOf('another tar'));
  return layout;
}

describe.skipIf(!requireCapability('time'))('dadi convert', () => {
  test.each<[string, () => Buffer, string, RegExp]>([
    [
      'a gzip bomb',
      zeros,
      'expansionFreeBytes=200M',
      /unpacks from 10\d{5} bytes to at least 20\d{7}, more than 200 times.*expansionRatio \(ERR_LIMIT\)/,
    ],
    [
      'a layer that unpacks to much',
      zeros,
      'layerBytes=200M',
      /at least \d+ bytes.*layerBytes \(ERR_LIMIT\)/,
    ],
    ['many entries', () => gzipOf(entries(30_000, 20)), 'layerEntries=20k', /20001 entries.*layerEntries/],
    [
      'long names',
      () => gzipOf(entries(10_000, 250)),
      'layerMetadataBytes=8M',
      /at least 8\d{6} bytes of memory.*layerMetadataBytes/,
    ],
    [
      'a deep path',
      () => gzipOf(paxHeader([['path', 'd/'.repeat(2000)]]), tarHeader({ path: 'd', type: '5' })),
      'pathDepth=1999',
      /has 2000 names.*pathDepth/,
    ],
    [
      'a file that is a hole of a TB',
      () => gzipOf(hole(String(1e12))),
      'layerEntries=100',
      /hole has 1000000000000 bytes, holes included.*fileBytes \(ERR_LIMIT\)/,
    ],
    [
      'a file that is a hole of 8 EiB',
      () => gzipOf(hole(String(2n ** 63n - 1n))),
      'layerEntries=100',
      /ERR_LIMIT/,
    ],
    [
      'large xattrs',
      () => gzipOf(paxHeader([['SCHILY.xattr.user.large', 'v'.repeat(300_000)]]), tarHeader({ path: 'x' })),
      'layerEntries=100',
      /x has 300010 bytes of xattrs, 262144 are allowed.*entryXattrBytes \(ERR_LIMIT\)/,
    ],
    [
      'a layer that takes long',
      zeros,
      'expansionRatio=10k,imageSeconds=0.2',
      /took more than 0.2 s.*imageSeconds \(ERR_CONVERT_TIMEOUT\)/,
    ],
    ['a full disk', () => gzipOf(), 'minFreeBytes=9000T', /minFreeBytes \(ERR_STORE_FULL\)/],
  ])(
    'refuses %s in little memory, says which limit to raise, and leaves nothing behind',
    async (name, layer, limits, message) => {
      const source = await imageOf(name.replaceAll(' ', '-'), layer());
      const parent = mkdtempSync(join(work, 'target-'));
      const dadi = [
        process.execPath,
        MAIN,
        'convert',
        `oci:${source}`,
        `oci:${parent}/out`,
        '--limit',
        limits,
      ];
      const { status, stderr } = spawnSync('/usr/bin/time', ['-f', 'peak KiB: %M', ...dadi], {
        encoding: 'utf8',
      });
      expect(stderr).toMatch(message);
      expect(status).toBe(1);
      expect(Number(/peak KiB: (\d+)/.exec(stderr)?.[1])).toBeLessThan(300_000);
      expect(readdirSync(parent)).toEqual([]);
    },
  );

  test('converts what is below its limits', async () => {
    const tar = Buffer.concat([entries(2000, 20), END_BLOCKS]);
    const file = join(work, 'fine.layer');
    writeFileSync(file, gzipSync(tar));
    await putOneLayerImage(join(work, 'fine'), file, digestOf(tar));
    const limits = ['--limit', 'layerEntries=2000', '--limit', 'layerBytes=1100k,expansionFreeBytes=2M'];
    await run(process.execPath, [
      MAIN,
      'convert',
      `oci:${work}/fine`,
      `oci:${work}/fine-converted`,
      ...limits,
    ]);
    expect(readdirSync(join(work, 'fine-converted'))).toContain('index.json');
  });
});

describe.skipIf(!requireCapability('registry', 'skopeo'))('dadi proxy', () => {
  let bomb: { layout: string; tag: string };
  let good: { layout: string; tag: string };
  let registry: Registry;
  let proxy: TestProxy;

  beforeAll(async () => {
    bomb = { layout: await imageOf('bomb', zeros()), tag: 'latest' };
    const tar = Buffer.concat([tarMember({ path: 'good' }, 'good'), END_BLOCKS]);
    const file = join(work, 'good.layer');
    writeFileSync(file, gzipSync(tar));
    good = { layout: join(work, 'good.image'), tag: 'latest' };
    await putOneLayerImage(good.layout, file, digestOf(tar));
  });

  beforeEach(async () => {
    registry = await startRegistry({ dir: mkdtempSync(join(work, 'registry-')) });
    await pushImage(bomb, registry, 'lib/bomb:1');
    await pushImage(good, registry, 'lib/good:1');
    proxy = await TestProxy.start({
      upstreams: [{ name: 'reg.example', url: registry.baseUrl.href }],
      conversion: { limits: { expansionFreeBytes: 200e6 } },
    });
  });

  afterEach(async () => {
    await proxy.remove();
    await registry.stop();
  });

  /** Pulls with skopeo, which checks every digest on its way: the digest of the manifest. */
  async function pull(name: string): Promise<Digest> {
    const layout = mkdtempSync(join(work, 'pulled-'));
    const flags = ['copy', '--preserve-digests', '--src-tls-verify=false', '--src-no-creds'];
    await run('skopeo', [
      '--insecure-policy',
      ...flags,
      `docker://${proxy.host}/${name}`,
      `oci:${layout}:it`,
    ]);
    return (await (await ImageLayout.open(layout)).resolve('it')).descriptor.digest;
  }

  async function ended(digest: Digest): Promise<ConversionStatus> {
    return vi.waitFor(
      async () => {
        const response = await proxy.fetch(`/dadi/v1/conversions/${digest}`);
        const status = (await response.json()) as ConversionStatus;
        expect(['done', 'failed']).toContain(status.state);
        return status;
      },
      { timeout: 30_000, interval: 50 },
    );
  }

  const dadi = (...args: string[]) =>
    run(process.execPath, [MAIN, 'conversions', ...args], { env: { DADI_PROXY_ADMIN: proxy.adminUrl } });

  test('a bomb is pulled as it is, refused once, and holds up no image behind it', async () => {
    const original = (await (await ImageLayout.open(bomb.layout)).resolve('latest')).descriptor.digest;
    const bombDigest = await pull('lib/bomb:1');
    const goodDigest = await pull('lib/good:1');
    expect(bombDigest).toBe(original);
    const failed = await ended(bombDigest);
    expect(failed).toMatchObject({
      state: 'failed',
      errorCode: 'ERR_LIMIT',
      error: expect.stringContaining('raise the limit expansionRatio'),
      attempts: 1,
      nextAttemptAt: null,
    });
    expect(await ended(goodDigest)).toMatchObject({ state: 'done' });
    await proxy.allFinished();

    await pull('lib/bomb:1');
    expect(await ended(bombDigest)).toEqual(failed);
    expect(proxy.logged.filter(({ msg }) => msg === 'conversion started')).toHaveLength(2);

    const { stdout } = await dadi('--state', 'failed');
    expect(stdout).toMatch(
      /^STATE .*\nfailed +reg\.example\/lib\/bomb +sha256:\w+ +- +[\d.]+ m?s +1 +- .*\(ERR_LIMIT\)\n$/,
    );
    expect(stdout).toContain(bombDigest);
    expect((await dadi('retry', bombDigest)).stdout).toMatch(/^STATE .*\n(queued|running).* 0 +-\n$/);
    const again = await ended(bombDigest);
    expect(again).toMatchObject({ state: 'failed', attempts: 1 });
    expect(again.updatedAt).not.toBe(failed.updatedAt);
    await expect(dadi('retry', digestOf('never pulled'))).rejects.toThrow(/answers 404: no conversion of/);
  });
});
