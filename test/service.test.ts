import { randomBytes } from 'node:crypto';
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { FakeRegistry } from './support/fake-registry.ts';
import { freePort, type StartedProcess, start } from './support/processes.ts';
import { bytesOf } from './support/test-proxy.ts';

const MAIN = resolve(import.meta.dirname, '../src/cli/main.ts');
const SECRET = 'geheim-4711';
const BIG = randomBytes(8 * 1024 * 1024);

let work: string;
let upstream: FakeRegistry;
let other: FakeRegistry;
let service: StartedProcess;
let url: string;
let adminUrl: string;

beforeEach(async () => {
  work = mkdtempSync(join(tmpdir(), 'dadi-service-'));
  upstream = await FakeRegistry.start();
  other = await FakeRegistry.start();
  const [port, adminPort] = [await freePort(), await freePort()];
  url = `http://127.0.0.1:${port}`;
  adminUrl = `http://127.0.0.1:${adminPort}`;
  configure('');
  await launch();
}, 60_000);

afterEach(async () => {
  await service.stop();
  await upstream.stop();
  await other.stop();
  rmSync(work, { recursive: true, force: true });
});

function configure(more: string): void {
  const text = `
listen: ${new URL(url).host}
admin: { listen: '${new URL(adminUrl).host}' }
dataDirectory: ${join(work, 'data')}
conversion: { enabled: false }
upstreams:
  - { name: reg.example, url: '${upstream.url}', credentials: { username: me, password: ${SECRET} } }
${more}`;
  writeFileSync(join(work, 'proxy.yaml'), text);
}

async function launch(): Promise<void> {
  service = await start(process.execPath, [MAIN, 'proxy', '--config', join(work, 'proxy.yaml')], {
    logPath: join(work, 'log'),
    readyWhen: async () => (await fetch(`${url}/readyz`)).ok,
    readyTimeoutMs: 60_000,
  });
}

function logged(): Record<string, unknown>[] {
  const lines = readFileSync(service.logPath, 'utf8').trim().split('\n');
  return lines.map((line) => JSON.parse(line) as Record<string, unknown>);
}

async function said(msg: string): Promise<Record<string, unknown>> {
  return vi.waitFor(
    () => {
      const line = logged().findLast((each) => each['msg'] === msg);
      if (line === undefined) throw new Error(`"${msg}" was not logged`);
      return line;
    },
    { timeout: 30_000, interval: 50 },
  );
}

/** An upstream that holds a blob back in its middle until it is told to go on. */
function holdInTheMiddle(): { path: string; goOn: () => void; asked: () => number } {
  const digest = upstream.putBlob(BIG);
  const waiting: (() => void)[] = [];
  let asked = 0;
  upstream.intercept = ({ url: path = '', method }, response) => {
    if (method !== 'GET' || !path.endsWith(digest)) return false;
    asked++;
    response.writeHead(200, { 'content-length': BIG.length });
    response.write(BIG.subarray(0, BIG.length / 2));
    waiting.push(() => response.end(BIG.subarray(BIG.length / 2)));
    return true;
  };
  const goOn = () => {
    for (const next of waiting.splice(0)) next();
  };
  return { path: `/v2/lib/a/blobs/${digest}`, goOn, asked: () => asked };
}

test('SIGHUP applies what it can, says what needs a restart, and the upstreams are the new ones', async () => {
  const digest = other.putBlob(Buffer.from('other'));
  expect((await fetch(`${url}/v2/b.example/lib/a/blobs/${digest}`)).status).toBe(404);
  configure(`  - { name: b.example, url: '${other.url}' }\ntagTtlMs: 1\nlogLevel: debug\n`);
  const file = join(work, 'proxy.yaml');
  writeFileSync(file, readFileSync(file, 'utf8').replace('enabled: false', 'enabled: false, level: 9'));
  process.kill(service.pid, 'SIGHUP');
  const read = await said('the configuration was read again');
  expect(read['applied']).toEqual(['upstreams', 'tagTtlMs', 'logLevel']);
  expect(await said('these keys count after a restart only')).toMatchObject({
    needRestart: ['conversion.level'],
  });
  expect(await bytesOf(await fetch(`${url}/v2/b.example/lib/a/blobs/${digest}`))).toEqual(
    Buffer.from('other'),
  );
});

test('a configuration that is wrong is refused loudly, and changes nothing', async () => {
  const digest = upstream.putBlob(Buffer.from('still'));
  writeFileSync(join(work, 'proxy.yaml'), 'upstreams: []\ntagTtl: 5\n');
  process.kill(service.pid, 'SIGHUP');
  const line = await said('the configuration cannot be used: going on with the one before');
  expect(line).toMatchObject({
    level: 50,
    err: { message: expect.stringMatching(/proxy\.yaml: upstreams: name at least one.*\n.*tagTtlMs\?/) },
  });
  expect((await fetch(`${url}/v2/lib/a/blobs/${digest}`)).status).toBe(200);
});

test('a stop lets a running pull end, is told by readiness, refuses new connections, and ends with 0', async () => {
  configure('drainMs: 60000\n');
  process.kill(service.pid, 'SIGHUP');
  await said('the configuration was read again');
  const held = holdInTheMiddle();
  const pull = fetch(`${url}${held.path}`).then(bytesOf);
  await vi.waitFor(() => expect(held.asked()).toBe(1), { timeout: 30_000 });
  process.kill(service.pid, 'SIGTERM');
  await vi.waitFor(
    async () => {
      const ready = await fetch(`${adminUrl}/readyz`);
      expect(ready.status).toBe(503);
      expect(JSON.stringify(await ready.json())).toContain('is being stopped');
    },
    { timeout: 30_000 },
  );
  await vi.waitFor(() => isRefused(Number(new URL(url).port)), { timeout: 30_000 });
  held.goOn();
  expect((await pull).equals(BIG)).toBe(true);
  expect(await service.ended).toBe('exit code 0');
});

test('a pull that takes longer than the drain time is broken off, leaves no litter, and works after a restart', async () => {
  configure('drainMs: 0\n');
  process.kill(service.pid, 'SIGHUP');
  await said('the configuration was read again');
  const held = holdInTheMiddle();
  const pull = fetch(`${url}${held.path}`).then(bytesOf);
  const failure = expect(pull).rejects.toThrow();
  await vi.waitFor(() => expect(held.asked()).toBe(1), { timeout: 30_000 });
  process.kill(service.pid, 'SIGTERM');
  await failure;
  expect(await service.ended).toBe('exit code 0');
  expect(readdirSync(join(work, 'data', 'ingest'))).toEqual([]);
  upstream.intercept = () => false;
  await launch();
  expect((await bytesOf(await fetch(`${url}${held.path}`))).equals(BIG)).toBe(true);
});

test('a second signal ends it at once', async () => {
  configure('drainMs: 600000\n');
  process.kill(service.pid, 'SIGHUP');
  await said('the configuration was read again');
  const held = holdInTheMiddle();
  const pull = fetch(`${url}${held.path}`).then(bytesOf);
  const failure = expect(pull).rejects.toThrow();
  await vi.waitFor(() => expect(held.asked()).toBe(1), { timeout: 30_000 });
  process.kill(service.pid, 'SIGTERM');
  await said('stopping: running answers may end, a second signal ends at once');
  process.kill(service.pid, 'SIGTERM');
  await failure;
  expect(await service.ended).toBe('SIGTERM');
});

test('no secret is ever in the log', async () => {
  const token = 'tok3n-in-the-url';
  upstream.intercept = ({ url: path = '' }, response) => {
    const location = `${other.url}/elsewhere?X-Amz-Signature=${token}`;
    if (path.includes('/blobs/')) response.writeHead(307, { location }).end();
    else response.writeHead(500).end();
    return true;
  };
  other.intercept = (request) => {
    request.socket.destroy();
    return true;
  };
  await fetch(`${url}/v2/lib/a/blobs/sha256:${'0'.repeat(64)}`);
  await fetch(`${url}/v2/lib/a/manifests/1?ns=reg.example&X-Amz-Signature=${token}&token=${token}`, {
    headers: { authorization: `Bearer ${token}`, cookie: token },
  });
  await fetch(`${url}/v2/lib/a/tags/list?access_token=${token}`, { method: 'POST' });
  await vi.waitFor(() => expect(logged().filter((line) => line['method'] === 'POST')).toHaveLength(1), {
    timeout: 30_000,
  });
  const text = readFileSync(service.logPath, 'utf8');
  expect(text).toContain('ns=reg.example');
  for (const secret of [token, SECRET, Buffer.from(`me:${SECRET}`).toString('base64')]) {
    expect(text).not.toContain(secret);
  }
});

async function isRefused(port: number): Promise<void> {
  const { promise, resolve: done, reject } = Promise.withResolvers<void>();
  const socket = connect(port, '127.0.0.1');
  socket.once('connect', () => reject(new Error('it still takes connections')));
  socket.once('error', () => done());
  await promise.finally(() => socket.destroy());
}
