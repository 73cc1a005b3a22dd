import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { hash } from '@node-rs/bcrypt';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { FakeRegistry } from '../../../test/support/fake-registry.ts';
import { bytesOf, errorOf, TestProxy } from '../../../test/support/test-proxy.ts';

const LAYER = Buffer.from('a layer');

let scratch: string;
let passwords: string;
let upstream: FakeRegistry;
let proxy: TestProxy;

beforeEach(async () => {
  scratch = mkdtempSync(join(tmpdir(), 'dadi-basic-'));
  passwords = join(scratch, 'htpasswd');
  await writePasswords({ alice: 'secret', bob: 'pass:word' });
  upstream = await FakeRegistry.start();
  proxy = await start(passwords);
});

afterEach(async () => {
  await proxy.remove();
  await upstream.stop();
  rmSync(scratch, { recursive: true });
});

function start(htpasswd: string, conversion: object = { enabled: false }): Promise<TestProxy> {
  return TestProxy.start({
    upstreams: [{ name: 'reg.example', url: upstream.url }],
    access: { mode: 'basic', htpasswd },
    conversion,
  });
}

async function writePasswords(users: Record<string, string>, cost = 5): Promise<void> {
  const lines = Object.entries(users).map(async ([user, password]) => {
    return `${user}:${await hash(password, { cost })}\n`;
  });
  writeFileSync(passwords, (await Promise.all(lines)).join(''));
}

function get(path: string, userAndPassword?: string): Promise<Response> {
  const authorization = `Basic ${Buffer.from(userAndPassword ?? '').toString('base64')}`;
  return proxy.fetch(path, userAndPassword === undefined ? {} : { headers: { authorization } });
}

test('who stands in the password file reads, and upstream does not see the password', async () => {
  const image = upstream.putImage([LAYER], '1');
  const sent: unknown[] = [];
  upstream.intercept = (request) => {
    sent.push(request.headers.authorization);
    return false;
  };
  for (const user of ['alice:secret', 'bob:pass:word']) {
    expect(await bytesOf(await get('/v2/lib/a/manifests/1', user))).toEqual(image.bytes);
    expect((await get('/v2/', user)).status).toBe(200);
  }
  expect(sent.filter((authorization) => authorization !== undefined)).toEqual([]);
});

test('nobody else hears of anything but that a password is wanted', async () => {
  const image = upstream.putImage([LAYER], '1');
  await get('/v2/lib/a/manifests/1', 'alice:secret');
  const before = upstream.requests.length;
  for (const path of [
    '/v2/',
    '/v2/lib/a/manifests/1',
    '/v2/lib/a/manifests/2',
    `/v2/lib/a/blobs/${image.layers[0]}`,
    '/v2/lib/a/blobs/none',
    '/v2/lib/a/tags/list',
    `/v2/lib/a/referrers/${image.digest}`,
    '/v2/lib/a/manifests/1?ns=elsewhere',
    `/dadi/v1/conversions/${image.digest}`,
  ]) {
    for (const user of [undefined, 'alice:wrong', 'alice:', 'nobody:secret', 'ALICE:secret', ':', 'alice']) {
      const refused = await get(path, user);
      expect(refused.headers.get('www-authenticate')).toMatch(/^Basic realm="/);
      expect(await errorOf(refused)).toEqual({
        status: 401,
        code: 'UNAUTHORIZED',
        message: 'this mirror wants to know who asks: log in to it',
      });
    }
  }
  expect(upstream.requests).toHaveLength(before);
});

test('what nodes ask about converted layers wants a password, too', async () => {
  await proxy.remove();
  proxy = await start(passwords, {});
  const { digest } = upstream.putImage([LAYER], '1');
  for (const path of [
    `/dadi/v1/images/${digest}?repository=lib/a`,
    `/dadi/v1/chains/${digest}?repository=lib/a&image=${digest}`,
  ]) {
    expect((await get(path)).status).toBe(401);
    expect((await get(path, 'alice:wrong')).status).toBe(401);
  }
  expect((await get(`/dadi/v1/images/${digest}?repository=lib/a`, 'alice:secret')).status).toBe(200);
});

test('a password file that changes is read again; one that cannot be used leaves the old one', async () => {
  expect((await get('/v2/', 'alice:secret')).status).toBe(200);
  await writePasswords({ alice: 'another', carol: 'secret' });
  const patiently = { timeout: 30_000, interval: 200 };
  await vi.waitFor(async () => expect((await get('/v2/', 'carol:secret')).status).toBe(200), patiently);
  expect((await get('/v2/', 'alice:secret')).status).toBe(401);
  expect((await get('/v2/', 'alice:another')).status).toBe(200);
  writeFileSync(passwords, 'alice:plain\n');
  const complaint = () => proxy.logged.find(({ level }) => level === 50);
  await vi.waitFor(() => expect(complaint()).toBeDefined(), patiently);
  expect(JSON.stringify(complaint())).toContain('not hashed with bcrypt');
  expect((await get('/v2/', 'carol:secret')).status).toBe(200);
});

test('a proxy without a password file that can be used does not start', async () => {
  for (const [path, message] of [
    [join(scratch, 'none'), /access.htpasswd: cannot read/],
    [scratch, /access.htpasswd: cannot read/],
  ] as const) {
    await expect(start(path)).rejects.toThrow(message);
  }
});

test('a flood of guesses is turned away before it holds the others up', async () => {
  await proxy.remove();
  await writePasswords({ alice: 'secret' }, 8);
  proxy = await start(passwords);
  const guesses = Array.from({ length: 300 }, (_, at) => get('/v2/', `alice:guess ${at}`));
  const statuses = (await Promise.all(guesses)).map(({ status }) => status);
  expect(new Set(statuses)).toEqual(new Set([401, 503]));
  expect((await get('/v2/', 'alice:secret')).status).toBe(200);
});
