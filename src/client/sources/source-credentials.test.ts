import { createHash } from 'node:crypto';
import { existsSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { hash } from '@node-rs/bcrypt';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { FakeRegistry } from '../../../test/support/fake-registry.ts';
import { FaultyRelay } from '../../../test/support/faulty-relay.ts';
import { TestProxy } from '../../../test/support/test-proxy.ts';
import { encodeChunkTable } from '../../format/chunk-table.ts';
import { type Digest, digestOf } from '../../oci/digest.ts';
import { ChunkCache } from '../chunks/chunk-cache.ts';
import { newReadStats } from '../chunks/read-stats.ts';
import { Proxies } from './proxies.ts';
import { SourceCredentials } from './source-credentials.ts';

const LAYER = Buffer.from('a layer');
const [OLD, NEW, OTHER] = ['old', 'new', 'other'].map(
  (password) => `Basic ${Buffer.from(`alice:${password}`).toString('base64')}`,
) as [string, string, string];

let directory: string;
let upstream: FakeRegistry;
let proxy: TestProxy;
let relay: FaultyRelay;
let proxies: Proxies;
let layer: Digest;
/** Who may read upstream. */
let reader: string;

beforeEach(async () => {
  directory = mkdtempSync(join(tmpdir(), 'dadi-credentials-'));
  upstream = await FakeRegistry.start();
  upstream.intercept = mayNotRead;
  layer = upstream.putBlob(LAYER);
  reader = OLD;
  proxy = await TestProxy.start({
    upstreams: [{ name: 'reg.example', url: upstream.url }],
    access: { mode: 'passthrough', decisionTtlMs: 0 },
    conversion: { enabled: false },
  });
  relay = await FaultyRelay.start(proxy.url);
});

afterEach(async () => {
  await proxies.close();
  await proxies.credentials.saved();
  await relay.stop();
  await proxy.remove();
  await upstream.stop();
  rmSync(directory, { recursive: true });
});

function mayNotRead({ headers }: IncomingMessage, response: ServerResponse): boolean {
  if (headers.authorization === reader) return false;
  response.writeHead(401, { 'www-authenticate': 'Basic realm="upstream"' }).end();
  return true;
}

const pullsFile = () => join(directory, 'pulls');
const dockerConfig = () => join(directory, 'config.json');

/** What `docker login` writes. */
function logIn(host: string, authorization: string): void {
  const auths = { [host]: { auth: authorization.slice('Basic '.length) } };
  writeFileSync(dockerConfig(), JSON.stringify({ auths }));
}

function start(options: { docker: boolean } = { docker: false }): SourceCredentials {
  const credentials = new SourceCredentials({
    file: pullsFile(),
    dockerConfig: options.docker ? dockerConfig() : null,
  });
  proxies = new Proxies({ urls: [new URL(relay.url)], credentials });
  return credentials;
}

/** A range of the layer, asked for once. */
function read(repository = 'lib/a'): Promise<Buffer> {
  const fetch = proxies.fetchRange('reg.example', repository, layer);
  return fetch(2, 5, AbortSignal.timeout(60_000));
}

const REFUSED = { code: 'ERR_REGISTRY_UNAUTHORIZED' };

test('a private repository is read in the name of whose pull was seen, and no other repository is', async () => {
  const credentials = start();
  await expect(read()).rejects.toMatchObject(REFUSED);
  credentials.remember('reg.example', 'lib/a', OLD);
  expect(String(await read())).toBe('layer');
  await expect(read('lib/b')).rejects.toMatchObject(REFUSED);
});

test('credentials of pulls are there after a restart, and for nobody else to read', async () => {
  const credentials = start();
  for (const [repository, authorization] of [
    ['lib/a', OTHER],
    ['lib/b', OTHER],
    ['lib/a', OLD],
  ] as const)
    credentials.remember('reg.example', repository, authorization);
  // Whoever pulls does not wait for the disk.
  expect(existsSync(pullsFile())).toBe(false);
  await credentials.saved();
  await proxies.close();
  expect(statSync(pullsFile()).mode & 0o777).toBe(0o600);
  start();
  expect(String(await read())).toBe('layer');
});

test('a file of credentials that is damaged is told, without what is in it, and does no harm', async () => {
  writeFileSync(pullsFile(), `[["reg.example/lib/a","${OLD}"`);
  const problems: unknown[][] = [];
  const onProblem = (...problem: unknown[]) => problems.push(problem);
  const credentials = new SourceCredentials({ file: pullsFile(), dockerConfig: null, onProblem });
  proxies = new Proxies({ urls: [new URL(proxy.url)], credentials });
  expect(problems).toEqual([[expect.stringContaining(pullsFile()), null]]);
  credentials.remember('reg.example', 'lib/a', OLD);
  expect(String(await read())).toBe('layer');
  await credentials.saved();
  expect(readFileSync(pullsFile(), 'utf8')).toContain(OLD);
});

test("where a pull's credentials are refused, the daemon's own are tried", async () => {
  logIn('reg.example', OLD);
  start({ docker: true }).remember('reg.example', 'lib/a', OTHER);
  expect(String(await read())).toBe('layer');
  // The next read begins with those that were good.
  relay.requests.length = 0;
  await read();
  expect(relay.requests).toHaveLength(1);
});

test("a proxy with users of its own is asked with the daemon's account there", async () => {
  writeFileSync(join(directory, 'htpasswd'), `alice:${await hash('other', { cost: 4 })}\n`);
  upstream.intercept = () => false;
  await proxy.stop();
  await proxy.start({ access: { mode: 'basic', htpasswd: join(directory, 'htpasswd') } });
  await relay.stop();
  relay = await FaultyRelay.start(proxy.url);
  start();
  await expect(read()).rejects.toMatchObject(REFUSED);
  await proxies.close();
  logIn(new URL(relay.url).host, OTHER);
  start({ docker: true });
  expect(String(await read())).toBe('layer');
});

test('a read whose credentials expired waits, and goes on with those of the next pull', async () => {
  const credentials = start();
  credentials.remember('reg.example', 'lib/a', OLD);
  const digests = createHash('sha256').update(LAYER).digest();
  const table = encodeChunkTable({ chunkSize: 262_144, blobSize: LAYER.length, digests });
  const opened = { digest: layer, sizeBytes: LAYER.length, chunkTableDigest: digestOf(table) };
  const cache = await ChunkCache.open(join(directory, 'cache'));
  const chain = { registry: 'reg.example', repository: 'lib/a', chainId: digestOf('chain') };
  const source = await proxies.openLayer(opened, chain, { cache, stats: newReadStats() });
  reader = NEW;
  const before = upstream.requests.length;
  const target = Buffer.alloc(5);
  const reading = source.read(2, target);
  await vi.waitFor(() => expect(upstream.requests.length).toBeGreaterThan(before), { timeout: 30_000 });
  credentials.remember('reg.example', 'lib/a', NEW);
  await reading;
  expect(String(target)).toBe('layer');
  await source.close();
  await cache.close();
});

test("a read whose credentials expired goes on with the daemon's", async () => {
  logIn('reg.example', NEW);
  start({ docker: true }).remember('reg.example', 'lib/a', OLD);
  await read();
  reader = NEW;
  expect(String(await read())).toBe('layer');
});

test('credentials that cannot be read are told, and others do', async () => {
  const problems: string[] = [];
  const onProblem = (problem: string) => problems.push(problem);
  const credentials = new SourceCredentials({ file: null, dockerConfig: dockerConfig(), onProblem });
  proxies = new Proxies({ urls: [new URL(proxy.url)], credentials });
  credentials.remember('reg.example', 'lib/a', OLD);
  expect(String(await read())).toBe('layer');
  expect(problems).toContain('the credentials for reg.example cannot be read');
});
