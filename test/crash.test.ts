import { randomBytes } from 'node:crypto';
import { mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import process from 'node:process';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import type { Digest } from '../src/oci/digest.ts';
import { ImageLayout } from '../src/oci/image-layout.ts';
import type { ConversionStatus } from '../src/proxy/conversion/conversion-status.ts';
import { Catalog } from '../src/store/catalog.ts';
import { DirectoryBlobStore } from '../src/store/directory-blob-store.ts';
import { requireCapability } from './support/capabilities.ts';
import { buildImage, pushImage } from './support/images.ts';
import { freePort, run, type StartedProcess, start } from './support/processes.ts';
import { type Registry, startRegistry } from './support/registry.ts';

const canRun = requireCapability('root', 'registry', 'skopeo', 'umoci');
const MAIN = resolve(import.meta.dirname, '../src/cli/main.ts');
const scratch = canRun ? mkdtempSync(join(tmpdir(), 'dadi-crash-')) : '';
const data = join(scratch, 'data');
const NAMES = ['one', 'two', 'three'];
const LONG = { timeout: 120_000, interval: 200 };

let registry: Registry;
const digests = new Map<string, string>();
let port: number;
let adminPort: number;

beforeAll(async () => {
  if (!canRun) return;
  registry = await startRegistry({ dir: mkdtempSync(join(scratch, 'registry-')) });
  [port, adminPort] = [await freePort(), await freePort()];
  for (const name of NAMES) {
    const layers: string[] = [];
    for (let at = 0; at < 3; at++) {
      const directory = join(scratch, `${name}-${at}`);
      mkdirSync(directory);
      for (let file = 0; file < 4; file++) writeFileSync(join(directory, `${file}`), randomBytes(2_000_000));
      layers.push(`${directory}.tar`);
      await run('tar', ['-C', directory, '-cf', `${directory}.tar`, '.']);
    }
    const image = await buildImage(scratch, name, layers);
    await pushImage(image, registry, `lib/${name}:1`);
    const { descriptor } = await (await ImageLayout.open(image.layout)).resolve(image.tag);
    digests.set(name, descriptor.digest);
  }
});

afterAll(async () => {
  if (!canRun) return;
  await registry.stop();
  rmSync(scratch, { recursive: true });
});

function startProxy(): Promise<StartedProcess> {
  const where = ['--listen', `127.0.0.1:${port}`, '--admin-listen', `127.0.0.1:${adminPort}`];
  const upstream = `reg.example=${registry.baseUrl.href}`;
  return start(process.execPath, [MAIN, 'proxy', ...where, '--data', data, '--upstream', upstream], {
    logPath: join(scratch, 'proxy.log'),
    readyWhen: async () => (await fetch(`http://127.0.0.1:${port}/readyz`)).ok,
    readyTimeoutMs: 60_000,
  });
}

/** With skopeo, which checks every digest on its way. */
async function pull(name: string, tag: string, signal?: AbortSignal): Promise<string> {
  const layout = mkdtempSync(join(scratch, 'pulled-'));
  try {
    const flags = [
      'copy',
      '--preserve-digests',
      '--src-tls-verify=false',
      '--src-no-creds',
      '--retry-times=0',
    ];
    const source = `docker://127.0.0.1:${port}/lib/${name}:${tag}`;
    const options = signal === undefined ? {} : { signal };
    await run('skopeo', ['--insecure-policy', ...flags, source, `oci:${layout}:it`], options);
    return (await (await ImageLayout.open(layout)).resolve('it')).descriptor.digest;
  } finally {
    rmSync(layout, { recursive: true });
  }
}

/** What is on the disk, and what the catalog knows: they must agree when nothing runs. */
async function audit(): Promise<void> {
  expect(readdirSync(join(data, 'ingest'))).toEqual([]);
  const store = await DirectoryBlobStore.open(data);
  const catalog = await Catalog.openSqlite(join(data, 'catalog.db'));
  try {
    const listed: Digest[] = [];
    for await (const { digest, sizeBytes } of store.list()) {
      listed.push(digest);
      expect(await store.verify(digest)).toBe('intact');
      expect((await catalog.blobs.get(digest))?.sizeBytes, digest).toBe(sizeBytes);
    }
    expect((await catalog.blobs.list('', 10_000)).map(({ digest }) => digest)).toEqual(listed.toSorted());
    for (const { digest, converted, state } of await catalog.conversions.list()) {
      expect(state, digest).toBe('done');
      expect(listed).toContain(converted?.digest);
    }
  } finally {
    await catalog.close();
    await store.close();
  }
}

describe.skipIf(!canRun)('a proxy that is killed', () => {
  test('in the middle of pulls and conversions serves nothing wrong afterwards, loses nothing and leaves no litter', async () => {
    for (const killAfterMs of [0, 150, 400, 800, 1500, 3000]) {
      const running = await startProxy();
      const client = new AbortController();
      const pulls = NAMES.map((name) => pull(name, '1', client.signal).catch(() => null));
      await sleep(killAfterMs);
      process.kill(running.pid, 'SIGKILL');
      expect(await running.ended).toBe('SIGKILL');
      client.abort();
      for (const [at, digest] of (await Promise.all(pulls)).entries()) {
        if (digest !== null) expect(digest).toBe(digests.get(NAMES[at]!));
      }
    }
    const running = await startProxy();
    for (const name of NAMES) {
      expect(await pull(name, '1')).toBe(digests.get(name));
    }
    for (const name of NAMES) {
      const converted = await vi.waitFor(async () => {
        const url = `http://127.0.0.1:${adminPort}/dadi/v1/conversions/${digests.get(name)}`;
        const status = (await (await fetch(url)).json()) as ConversionStatus;
        if (status.state === 'failed') {
          // What several processes in a row died of is not tried again unless somebody asks for it.
          expect(status.errorCode).toBe('ERR_PROXY_DIED');
          await fetch(`${url}/retry`, { method: 'POST' });
        }
        expect(status.state).toBe('done');
        return status.converted?.digest;
      }, LONG);
      expect(await pull(name, '1_obd')).toBe(converted);
    }
    await running.stop();
    await audit();
  }, 600_000);
});
