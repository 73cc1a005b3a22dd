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

test.each([
  [{}, /^proxies: is missing; name at least one dadi proxy, .*--proxy/],
  [{ proxies: [] }, /^proxies: name at least one dadi proxy/],
  [{ proxies: ['127.0.0.1:5100'] }, /^proxies\.0: write a URL, for example http/],
  [{ proxies, cache: { maxBytes: '20GB' } }, /^cache\.maxBytes: is a text; write a/],
  [{ proxies, cache: { dir: '/x' } }, /^cache: there is no key dir; .*directory/],
  [{ proxies, runDirectory: 'run' }, /^runDirectory: write a path that begins with \//],
  [{ proxies, mirror: { listen: '6010' } }, /^mirror\.listen: write HOST:PORT/],
  [{ proxies, readTimeout: 5 }, /there is no key readTimeout; did you mean readTimeoutMs\?/],
])('%j is refused with a message that names the key and the remedy', (input, message) => {
  expect(() => parseNodeConfig(input)).toThrow(
    expect.objectContaining({ code: 'ERR_CONFIG', message: expect.stringMatching(message) }),
  );
});
