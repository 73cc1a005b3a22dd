import { expect, test } from 'vitest';
import { parseNodeConfig } from './node-config.ts';

const proxies = ['http://127.0.0.1:5100'];

test('a proxy is all that has to be said', () => {
  expect(parseNodeConfig({ proxies })).toMatchObject({
    proxies: [new URL('http://127.0.0.1:5100/')],
    snapshotter: { socket: '/run/dadi/snapshotter.sock' },
    mirror: { listen: { host: '127.0.0.1', port: 6010 } },
    cache: { directory: '/var/lib/dadi-node/cache' },
    admin: { socket: '/run/dadi/node.sock', listen: null },
    readTimeoutMs: 60_000,
  });
});

test('sockets and cache follow their directories unless they are given', () => {
  const config = parseNodeConfig({
    proxies,
    runDirectory: '/r',
    stateDirectory: '/s',
    snapshotter: { socket: '/x.sock' },
    mirror: null,
  });
  expect(config).toMatchObject({
    snapshotter: { socket: '/x.sock' },
    admin: { socket: '/r/node.sock' },
    cache: { directory: '/s/cache' },
    mirror: null,
  });
});

test('a host takes part in the mesh once it is told how hosts know each other', () => {
  const mesh = (settings: object) => parseNodeConfig({ proxies, mesh: settings }).mesh;
  expect(parseNodeConfig({ proxies }).mesh).toBeNull();
  expect(mesh({ zone: 'a' })).toBeNull();
  expect(mesh({ secretFile: '/s', enabled: false })).toBeNull();
  expect(mesh({ secretFile: '/s' })).toEqual({
    listen: { host: '0.0.0.0', port: 6011 },
    advertise: null,
    zone: '',
    uploadBytesPerSecond: 125_000_000,
    roots: null,
    security: { kind: 'shared-secret', file: '/s' },
  });
  const tls = { certificate: '/c.pem', key: '/k.pem', ca: '/ca.pem' };
  expect(mesh({ tls })?.security).toEqual({ kind: 'certificates', ...tls });
  const loopback = { enabled: true, insecure: true, listen: '127.0.0.2:0' };
  expect(mesh(loopback)?.security).toEqual({ kind: 'plain' });
});

test.each([
  [{}, /^proxies: is missing; name at least one dadi proxy, .*--proxy/],
  [{ proxies: [] }, /^proxies: name at least one dadi proxy/],
  [{ proxies: ['127.0.0.1:5100'] }, /^proxies\.0: write a URL, for example http/],
  [{ proxies, cache: { maxBytes: '20GB' } }, /^cache\.maxBytes: is a text; write a/],
  [{ proxies, cache: { dir: '/x' } }, /^cache: there is no key dir; .*directory/],
  [{ proxies, runDirectory: 'run' }, /^runDirectory: write a path that begins with \//],
  [{ proxies, mirror: { listen: '6010' } }, /^mirror\.listen: write HOST:PORT/],
  [{ proxies, mesh: { enabled: true } }, /^mesh\.enabled: name secretFile or tls, so that only your own/],
  [
    { proxies, mesh: { enabled: true, insecure: true } },
    /^mesh\.insecure: is for tests on loopback, and 0\.0/,
  ],
  [{ proxies, mesh: { secretFile: '/s', insecure: true } }, /^mesh\.secretFile: name one of/],
  [{ proxies, mesh: { tls: { ca: '/ca.pem' } } }, /^mesh\.tls\.certificate: is missing[\s\S]*mesh\.tls\.key/],
  [
    { proxies, mesh: { secretFile: '/s', advertise: 'http://h:1' } },
    /^mesh\.advertise: write HOST or HOST:PORT/,
  ],
  [
    { proxies, mesh: { secretFile: '/s', roots: [] } },
    /^mesh\.roots: name at least one root, or leave it out/,
  ],
  [{ proxies, mesh: { secretfile: '/s' } }, /^mesh: there is no key secretfile; did you mean secretFile\?/],
  [{ proxies, readTimeout: 5 }, /there is no key readTimeout; did you mean readTimeoutMs\?/],
])('%j is refused with a message that names the key and the remedy', (input, message) => {
  expect(() => parseNodeConfig(input)).toThrow(
    expect.objectContaining({ code: 'ERR_CONFIG', message: expect.stringMatching(message) }),
  );
});
