import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test, vi } from 'vitest';
import { requireCapability } from './support/capabilities.ts';
import { buildImage, type LayoutImage, pushImage } from './support/images.ts';
import { ProcessError, run } from './support/processes.ts';
import { type Registry, startRegistry } from './support/registry.ts';
import { TestProxy } from './support/test-proxy.ts';

const canRun = requireCapability('root', 'registry', 'skopeo', 'umoci');
const MAIN = resolve(import.meta.dirname, '../src/cli/main.ts');
const scratch = canRun ? mkdtempSync(join(tmpdir(), 'dadi-cache-')) : '';
const MIB = 1024 * 1024;

let registry: Registry;
let proxy: TestProxy;

async function imageOf(name: string, ...layerBytes: number[]): Promise<LayoutImage> {
  const layers: string[] = [];
  for (const [at, bytes] of layerBytes.entries()) {
    const directory = join(scratch, `${name}-${at}`);
    mkdirSync(directory);
    writeFileSync(join(directory, `${name}${at}`), randomBytes(bytes));
    layers.push(`${directory}.tar`);
    await run('tar', ['-C', directory, '-cf', `${directory}.tar`, '.']);
  }
  return buildImage(scratch, name, layers);
}

/** Pulls with skopeo, which checks every digest. */
async function pull(image: string): Promise<void> {
  const layout = mkdtempSync(join(scratch, 'pulled-'));
  const flags = ['copy', '--preserve-digests', '--src-tls-verify=false', '--src-no-creds'];
  await run('skopeo', ['--insecure-policy', ...flags, `docker://${proxy.host}/${image}`, `oci:${layout}:it`]);
  rmSync(layout, { recursive: true });
}

async function cacheBytes(): Promise<number> {
  const answer = await proxy.adminFetch('/dadi/v1/cache');
  return ((await answer.json()) as { bytes: number }).bytes;
}

beforeAll(async () => {
  if (!canRun) return;
  registry = await startRegistry({ dir: mkdtempSync(join(scratch, 'registry-')) });
  await pushImage(await imageOf('small', 2 * MIB, MIB), registry, 'lib/small:1');
  await pushImage(await imageOf('large', 24 * MIB, 24 * MIB), registry, 'lib/large:1');
});

afterAll(async () => {
  if (!canRun) return;
  await registry.stop();
  rmSync(scratch, { recursive: true });
});

describe.skipIf(!canRun)('a file system that is too small', () => {
  const mountPoint = join(scratch, 'small-disk');

  beforeEach(async () => {
    mkdirSync(mountPoint, { recursive: true });
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=40m', 'dadi-test', mountPoint]);
    proxy = await TestProxy.start({
      upstreams: [{ name: 'reg.example', url: registry.baseUrl.href }],
      conversion: { enabled: false },
      dataDirectory: join(mountPoint, 'proxy'),
      storage: { kind: 'directory', minFreeBytes: MIB },
      cache: { spareMs: 0, minFreeBytes: 2 * MIB, maxBytes: null },
    });
  });

  afterEach(async () => {
    await proxy.remove();
    execFileSync('umount', [mountPoint]);
  });

  test('pulls go on, and when there is room again what is pulled is kept', async () => {
    const ballast = join(mountPoint, 'ballast');
    await pull('lib/small:1');
    const before = await cacheBytes();
    expect(before).toBeGreaterThan(3 * MIB);
    writeFileSync(ballast, Buffer.alloc(32 * MIB));
    // 48 MiB cannot be kept, whatever is removed.
    for (let round = 0; round < 2; round++) await pull('lib/large:1');
    await pull('lib/small:1');
    expect((await proxy.adminFetch('/readyz')).status).toBe(200);
    expect(await (await proxy.adminFetch('/metrics')).text()).toMatch(
      /^dadi_proxy_passed_blobs_total [1-9]/m,
    );
    rmSync(ballast);
    // 24 MiB fit at a time.
    await vi.waitFor(
      async () => {
        await pull('lib/large:1');
        expect(await cacheBytes()).toBeGreaterThan(24 * MIB);
      },
      { timeout: 120_000, interval: 1_000 },
    );
    expect(readdirSync(join(mountPoint, 'proxy', 'ingest'))).toEqual([]);
  });
});

describe.skipIf(!canRun)('dadi gc, cache and preheat', () => {
  beforeEach(async () => {
    proxy = await TestProxy.start({
      upstreams: [{ name: 'reg.example', url: registry.baseUrl.href }],
      conversion: { concurrency: 1 },
      cache: { spareMs: 0, maxBytes: 20 * MIB, intervalMs: 3_600_000 },
    });
  });

  afterEach(async () => {
    await proxy.remove();
  });

  async function dadi(...args: string[]): Promise<string> {
    const [command = '', ...rest] = args;
    const node = [MAIN, command, '--proxy', proxy.adminUrl, ...rest];
    return (await run(process.execPath, node)).stdout;
  }

  async function converted(repository: string): Promise<void> {
    await vi.waitFor(async () => expect(await dadi('cache', 'ls', repository)).toMatch(/ 1 .* yes +done /), {
      timeout: 120_000,
      interval: 500,
    });
  }

  test('images of a list are pulled, listed, cleaned up by size, and removed', async () => {
    const file = join(scratch, 'images.txt');
    writeFileSync(file, '# ours\nreg.example/lib/small:1\n\nreg.example/lib/large:1 # big\n');
    const table = await dadi('preheat', '-f', file);
    expect(table).toMatch(/^done +reg\.example\/lib\/small:1/m);
    expect(table).toMatch(/^done +reg\.example\/lib\/large:1/m);
    for (const name of ['small', 'large']) await converted(`reg.example/lib/${name}`);
    const all = await dadi('cache', 'ls');
    expect(all).toMatch(/^reg\.example\/lib\/large +\d+ /m);
    expect(await dadi('gc', '--dry-run')).toMatch(/^would remove \d+ blobs/);
    expect(await cacheBytes()).toBeGreaterThan(20 * MIB);
    expect(JSON.parse(await dadi('gc', '--json'))).toMatchObject({ outcome: 'done' });
    expect(await cacheBytes()).toBeLessThanOrEqual(20 * MIB);
    await pull('lib/small:1');
    // What cleaning up took away is made again, and what is read for that would stay.
    await converted('reg.example/lib/small');
    expect(await dadi('cache', 'rm', 'reg.example/lib/small:1')).toMatch(/^removed \d+ blobs/);
    await dadi('cache', 'rm', '--all', 'reg.example/lib/large');
    expect(await dadi('cache', 'ls')).not.toContain('reg.example/lib');
    for (const name of ['small', 'large']) await pull(`lib/${name}:1`);
  });

  test('what could not be pulled is an exit code, and each mistake says what to do', async () => {
    const missing = dadi('preheat', 'reg.example/lib/small:1', 'reg.example/lib/none:1');
    await expect(missing).rejects.toThrow(/1 of 2 images could not be pulled/);
    await expect(dadi('preheat')).rejects.toThrow(/name an image, or a file with --file/);
    await expect(dadi('preheat', 'elsewhere.example/a')).rejects.toThrow(/none of this proxy's upstreams/);
    await expect(dadi('cache', 'rm', 'reg.example/lib/small:none')).rejects.toThrow(/dadi cache ls/);
    const stopped = run(process.execPath, [MAIN, 'gc', '--proxy', 'http://127.0.0.1:1']);
    await expect(stopped).rejects.toThrow(/is --proxy its admin address/);
    await expect(stopped).rejects.toBeInstanceOf(ProcessError);
  });
});
