import { promisify } from 'node:util';
import { expect, test } from 'vitest';
import { AddressGuard } from './registry-url.ts';

const guardOf = (registry: string) => new AddressGuard(new URL(registry));
const refused = expect.objectContaining({ code: 'ERR_REGISTRY_FORBIDDEN_ADDRESS' });

test.each([
  'http://127.0.0.1/',
  'http://127.9.9.9:8080/',
  'https://10.1.2.3/',
  'https://172.31.0.1/',
  'https://192.168.1.1/',
  'https://100.64.0.1/',
  'http://0.0.0.0/',
  'http://169.254.169.254/',
  'http://2852039166/',
  'http://0x7f.1/',
  'http://[::1]/',
  'http://[::]/',
  'http://[fe80::1]/',
  'http://[fd12::1]/',
  'http://[::ffff:127.0.0.1]/',
  'http://[::ffff:a9fe:a9fe]/',
  'ftp://example.com/',
  'file:///etc/passwd',
])('a public registry cannot point to %s', (target) => {
  expect(() => guardOf('https://quay.io/').check(new URL(target))).toThrow(refused);
});

test('anybody may point to public addresses and to names, which are judged when they are resolved', () => {
  for (const target of ['https://1.1.1.1/', 'https://[2606:4700::1111]/', 'http://cdn.example.com/']) {
    expect(() => guardOf('https://quay.io/').check(new URL(target))).not.toThrow();
  }
});

test('a registry in a private network may point into it, but not to link-local addresses', () => {
  for (const registry of ['http://10.0.0.5:5000/', 'http://[::1]:5000/']) {
    const guard = guardOf(registry);
    expect(() => guard.check(new URL('http://192.168.7.7/'))).not.toThrow();
    expect(() => guard.check(new URL('http://169.254.169.254/'))).toThrow(refused);
  }
});

/** `localhost` is a name that resolves to a private address on every machine. */
const resolve = (guard: AddressGuard, hostname: string, all = true) =>
  promisify((callback: (error: Error | null, address?: unknown) => void) =>
    guard.lookup(hostname, { all }, callback),
  )();

test('a public registry cannot point to a name that resolves to a private address', async () => {
  await expect(resolve(guardOf('https://1.1.1.1/'), 'localhost')).rejects.toEqual(refused);
});

test('a registry whose own name resolves to a private address may point to such names and addresses', async () => {
  const guard = guardOf('http://localhost:5000/');
  expect(() => guard.check(new URL('http://127.0.0.1/'))).toThrow(refused);
  expect(await resolve(guard, 'localhost')).toContainEqual(expect.objectContaining({ address: '127.0.0.1' }));
  expect(await resolve(guard, 'localhost', false)).toMatch(/^(127\.0\.0\.1|::1)$/);
  expect(() => guard.check(new URL('http://127.0.0.1/'))).not.toThrow();
});

test('a name that does not exist is an error of the resolver', async () => {
  await expect(resolve(guardOf('https://quay.io/'), 'no-such-host.invalid')).rejects.toMatchObject({
    code: expect.stringMatching(/^(ENOTFOUND|EAI_AGAIN)$/),
  });
});

test('a registry that may only be public is refused at any address further inside, its own too', async () => {
  const named = new AddressGuard(new URL('http://localhost:5000/'), 'public');
  await expect(resolve(named, 'localhost')).rejects.toEqual(refused);
  for (const address of ['127.0.0.1', '10.0.0.1', '[fd00::1]', '169.254.169.254']) {
    const url = new URL(`http://${address}/`);
    expect(() => new AddressGuard(url, 'public').check(url)).toThrow(refused);
  }
});

test('a registry that may be in a private network may not be at a link-local address', () => {
  const inside = new URL('http://10.0.0.1/');
  expect(() => new AddressGuard(inside, 'private').check(inside)).not.toThrow();
  const metadata = new URL('http://169.254.169.254/');
  expect(() => new AddressGuard(metadata, 'private').check(metadata)).toThrow(refused);
});
