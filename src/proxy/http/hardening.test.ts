import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { FakeRegistry } from '../../../test/support/fake-registry.ts';
import { bytesOf, errorOf, TestProxy } from '../../../test/support/test-proxy.ts';
import { OCI_MANIFEST } from '../../oci/media-types.ts';

const LAYER = Buffer.from('a layer');

let upstream: FakeRegistry;
let proxy: TestProxy;
const sockets: Socket[] = [];

async function start(connections: object = {}): Promise<void> {
  proxy = await TestProxy.start({
    upstreams: [{ name: 'reg.example', url: upstream.url }],
    conversion: { enabled: false },
    tagTtlMs: 0,
    connections,
  });
}

beforeEach(async () => {
  upstream = await FakeRegistry.start();
});

afterEach(async () => {
  for (const socket of sockets.splice(0)) socket.destroy();
  await proxy.remove();
  await upstream.stop();
});

function open(): Socket {
  const [host, port] = proxy.host.split(':');
  const socket = connect(Number(port), host);
  socket.on('error', () => {});
  sockets.push(socket);
  return socket;
}

/** Sends bytes as they are, and gives all that comes until the proxy ends the connection. */
async function exchange(request: string | Buffer): Promise<string> {
  const socket = open();
  const pieces: Buffer[] = [];
  socket.on('data', (piece) => pieces.push(piece));
  socket.write(request);
  await closed(socket);
  return Buffer.concat(pieces).toString('latin1');
}

/** Whether by its end or by an error. */
async function closed(socket: Socket): Promise<void> {
  if (!socket.destroyed) await new Promise((resolve) => socket.once('close', resolve));
}

function statusesOf(answers: string): string[] {
  return [...answers.matchAll(/HTTP\/1\.1 (\d{3})/g)].map((match) => match[1]!);
}

const SECOND = 'GET /v2/lib/smuggled/manifests/1 HTTP/1.1\r\nHost: x\r\n\r\n';

describe('requests that could be read in two ways', () => {
  beforeEach(() => start());

  test.each([
    ['both lengths', 'Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nG'],
    ['two lengths', 'Content-Length: 5\r\nContent-Length: 0\r\n\r\n'],
    ['a list of lengths', 'Content-Length: 5, 0\r\n\r\n'],
    ['a length with a sign', 'Content-Length: +5\r\n\r\n'],
    ['an encoding that is not the last', 'Transfer-Encoding: chunked, identity\r\n\r\n'],
    ['an encoding in disguise', 'Transfer-Encoding: xchunked\r\n\r\n'],
    ['a space before the colon', 'Transfer-Encoding : chunked\r\n\r\n'],
    ['a folded header', 'X-Folded: a\r\n b\r\n\r\n'],
    ['a bare line feed', 'X-One: a\nTransfer-Encoding: chunked\r\n\r\n'],
    ['a bare carriage return', 'X-One: a\rTransfer-Encoding: chunked\r\n\r\n'],
    ['a NUL', 'X-One: a\0b\r\n\r\n'],
    ['a chunk size that is none', 'Transfer-Encoding: chunked\r\n\r\nxyz\r\n'],
  ])('%s: refused, and nothing behind is taken for a request', async (_what, rest) => {
    const answers = await exchange(
      `GET /v2/lib/a/manifests/1 HTTP/1.1\r\nHost: x\r\n${rest}${SECOND.repeat(2)}`,
    );
    expect(statusesOf(answers).at(-1)).toBe('400');
    expect(upstream.requests.filter((seen) => seen.path.includes('smuggled'))).toEqual([]);
  });

  test.each([
    ['of a length', `Content-Length: ${SECOND.length}\r\n\r\n${SECOND}`],
    [
      'in chunks',
      `Transfer-Encoding: chunked\r\n\r\n${SECOND.length.toString(16)}\r\n${SECOND}\r\n0\r\n\r\n`,
    ],
  ])('a body %s on a GET is not read, and ends the connection', async (_what, rest) => {
    const answers = await exchange(`GET /healthz HTTP/1.1\r\nHost: x\r\n${rest}`);
    expect(statusesOf(answers)).toEqual(['200']);
    expect(answers).toMatch(/^connection: close/im);
    expect(upstream.requests).toEqual([]);
  });

  test('a body without end does not hold the connection', async () => {
    const socket = open();
    socket.write('GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 100000000000\r\n\r\n');
    socket.resume();
    await closed(socket);
  });

  test.each([
    ['without a host', 'GET /v2/ HTTP/1.1\r\n\r\n', '400'],
    ['with two hosts', 'GET /v2/ HTTP/1.1\r\nHost: a\r\nHost: b\r\nConnection: close\r\n\r\n', '400'],
    [
      'with two authorisations',
      'GET /v2/ HTTP/1.1\r\nHost: a\r\nAuthorization: a\r\nAuthorization: b\r\nConnection: close\r\n\r\n',
      '400',
    ],
    ['with a line that is none', 'GET /v2/\r\n\r\n', '400'],
    ['that is TLS', '\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03', '400'],
    ['for another server', 'CONNECT 169.254.169.254:80 HTTP/1.1\r\nHost: x\r\n\r\n', undefined],
    ['with an asterisk', 'OPTIONS * HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n', '400'],
    ['with a URL that is none', 'GET http://[/v2/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n', '400'],
    [
      'with a URL of another server',
      'GET http://169.254.169.254/v2/lib/a/manifests/1 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n',
      '404',
    ],
  ])('a request %s harms nobody', async (_what, request, status) => {
    expect(statusesOf(await exchange(request))[0]).toBe(status);
    expect((await proxy.fetch('/healthz')).status).toBe(200);
  });
});

describe('requests that are too large', () => {
  beforeEach(() => start());

  test.each([
    ['a header', `GET /v2/ HTTP/1.1\r\nHost: x\r\nX-Long: ${'a'.repeat(20_000)}\r\n\r\n`],
    ['all headers together', `GET /v2/ HTTP/1.1\r\nHost: x\r\n${'X-A: aaaaaaaa\r\n'.repeat(3000)}\r\n`],
    ['many headers', `GET /v2/ HTTP/1.1\r\nHost: x\r\n${'X: a\r\n'.repeat(2_000)}\r\n`],
    ['a token', `GET /v2/ HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${'a'.repeat(20_000)}\r\n\r\n`],
    ['a path', `GET /v2/${'a/'.repeat(10_000)}manifests/1 HTTP/1.1\r\nHost: x\r\n\r\n`],
  ])('%s: 431', async (_what, request) => {
    expect(statusesOf(await exchange(request))).toEqual(['431']);
  });

  test('a long name and a hundred headers are answered soon', async () => {
    const path = `/v2/${'a/'.repeat(3_500)}manifests/1`;
    expect((await proxy.fetch(path)).status).toBe(400);
    expect((await proxy.fetch(`/v2/${'-'.repeat(7_000)}/manifests/1`)).status).toBe(400);
    const headers = 'X-A: a\r\n'.repeat(100);
    const answer = await exchange(`GET /v2/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n${headers}\r\n`);
    expect(statusesOf(answer)).toEqual(['200']);
  });
});

describe('paths and upstreams that lead elsewhere', () => {
  beforeEach(() => start());

  test.each([
    '/v2/../../etc/passwd',
    '/v2/lib/../../../etc/passwd/manifests/1',
    '/v2/lib/%2e%2e/%2e%2e/x/manifests/1',
    '/v2/lib/..%2f..%2fx/manifests/1',
    '/v2/lib/%252e%252e/x/manifests/1',
    '/v2/lib/a%00b/manifests/1',
    '/v2/lib/a%0d%0aX-Evil:%201/manifests/1',
    '/v2/lib/a%3fx=1/manifests/1',
    '/v2/lib/a%23x/manifests/1',
    '/v2/lib\\..\\x/manifests/1',
    '/v2/lib/a/manifests/..%2f..%2fsecret',
    '/v2/lib/a/manifests/%2e%2e',
    '/v2/lib/a/blobs/sha256:..%2f..%2f..%2fcatalog.db',
    '/v2/lib/a/blobs/..%2fcatalog.db',
    '/v2//etc/manifests/1',
    '/v2/%E0%A4%A/manifests/1',
    '/dadi/v1/conversions/..%2f..%2fx',
  ])('%s is refused, and upstream never hears of it', async (path) => {
    const answer = await exchange(`GET ${path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n`);
    expect(['400', '404']).toContain(statusesOf(answer)[0]);
    expect(answer).not.toMatch(/^x-evil/im);
    expect(upstream.requests).toEqual([]);
  });

  test.each([
    '169.254.169.254',
    'localhost:22',
    '127.0.0.1:22',
    '[::1]:22',
    '[::ffff:169.254.169.254]',
    '0x7f000001',
    '2130706433',
    'user@reg.example',
    'user:pass@reg.example',
    'reg.example@169.254.169.254',
    'reg.example:80',
    'reg.example.',
    'REG.EXAMPLE',
    'http://reg.example',
    'reg.example/../x',
    'reg.example#x',
    'reg.example%0d%0aX-Evil:1',
    'reg.example%00',
    '',
    '__proto__',
    'constructor',
  ])('ns=%s is none of the upstreams: nobody is contacted', async (namespace) => {
    const value = namespace.includes('%') ? namespace : encodeURIComponent(namespace);
    const answer = await proxy.fetch(`/v2/lib/a/manifests/1?ns=${value}`);
    expect(answer.headers.get('x-evil')).toBeNull();
    expect(await errorOf(answer)).toMatchObject({ status: 404, code: 'NAME_UNKNOWN' });
    expect(upstream.requests).toEqual([]);
  });

  test.each(['localhost:22/x', '127.0.0.1:22/x'])(
    '%s names a registry that is not configured: nobody is contacted',
    async (prefix) => {
      const answer = await proxy.fetch(`/v2/${prefix}/manifests/1`);
      expect(await errorOf(answer)).toMatchObject({ status: 404, code: 'NAME_UNKNOWN' });
      expect(upstream.requests).toEqual([]);
    },
  );

  test("an address without a port is part of a repository's name: only the default upstream hears of it", async () => {
    upstream.putImage([LAYER], '1');
    await proxy.fetch('/v2/169.254.169.254/x/manifests/1');
    const paths = upstream.requests.map((seen) => seen.path);
    expect(paths.length).toBeGreaterThan(0);
    for (const path of paths) expect(path).toMatch(/^\/v2\/169\.254\.169\.254\/x\//);
  });
});

describe('an upstream that is not honest', () => {
  beforeEach(() => start());

  test.each([
    'http://169.254.169.254/latest/meta-data/',
    'http://[fe80::1]/',
    'http://[fd00:ec2::254]/',
    'http://[::ffff:169.254.169.254]/',
    'file:///etc/passwd',
    'gopher://127.0.0.1:22/',
  ])('a redirect to %s is not followed', async (location) => {
    const image = upstream.putImage([LAYER], '1');
    upstream.intercept = (_request, response) => {
      response.writeHead(307, { location }).end();
      return true;
    };
    for (const path of ['manifests/1', `blobs/${image.layers[0]}`]) {
      expect((await proxy.fetch(`/v2/lib/a/${path}`)).status).toBe(502);
    }
  });

  test.each([
    'http://169.254.169.254/token',
    'http://[fe80::1]/token',
    'file:///etc/passwd',
    'http://user:pass@127.0.0.1/token',
    'nonsense',
  ])('a token realm %s is not asked', async (realm) => {
    upstream.intercept = (_request, response) => {
      response.writeHead(401, { 'www-authenticate': `Bearer realm="${realm}",service="x"` }).end();
      return true;
    };
    expect((await proxy.fetch('/v2/lib/a/manifests/1')).status).toBe(502);
  });

  test('a manifest that is too large, or has no end, is refused', async () => {
    upstream.putManifest(Buffer.alloc(5 * 1024 * 1024, ' '), OCI_MANIFEST, 'large');
    expect(await errorOf(await proxy.fetch('/v2/lib/a/manifests/large'))).toMatchObject({ status: 502 });
    let sentBytes = 0;
    upstream.intercept = (request, response) => {
      if (request.method === 'HEAD') return false;
      response.writeHead(200, { 'content-type': OCI_MANIFEST });
      const more = () => {
        if (response.destroyed || sentBytes > 1e9) return;
        sentBytes += 65_536;
        response.write(Buffer.alloc(65_536, ' '), more);
      };
      more();
      return true;
    };
    expect((await proxy.fetch('/v2/lib/a/manifests/large')).status).toBe(502);
    expect(sentBytes).toBeLessThan(100e6);
  });

  test('a manifest nested a hundred thousand deep passes as what it is', async () => {
    for (const [tag, bytes] of [
      ['arrays', Buffer.from(`{"schemaVersion":2,"layers":${'['.repeat(1e5)}${']'.repeat(1e5)}}`)],
      ['objects', Buffer.from(`{"x":${'{"a":'.repeat(1e5)}1${'}'.repeat(1e5)}}`)],
      ['broken', Buffer.from('['.repeat(2e6))],
    ] as const) {
      upstream.putManifest(bytes, OCI_MANIFEST, tag);
      expect(await bytesOf(await proxy.fetch(`/v2/lib/a/manifests/${tag}`))).toEqual(bytes);
    }
    expect((await proxy.fetch('/healthz')).status).toBe(200);
  });

  test('lists that are nested deep or have wrong kinds of entries break nothing', async () => {
    const { digest } = upstream.putImage([LAYER], '1');
    for (const body of [`{"tags":${'['.repeat(1e5)}${']'.repeat(1e5)}}`, '{"tags":[1,null,{}]}', 'null']) {
      upstream.intercept = (_request, response) => {
        response.writeHead(200, { 'content-type': 'application/json' }).end(body);
        return true;
      };
      expect((await proxy.fetch('/v2/lib/a/tags/list')).status).toBe(502);
      const referrers = await proxy.fetch(`/v2/lib/a/referrers/${digest}`);
      expect(await referrers.json()).toMatchObject({ manifests: [] });
    }
  });
});

describe('clients that are slow on purpose', () => {
  test('a request that does not come to its end is given up', async () => {
    await start({ requestTimeoutMs: 500 });
    const [silent, trickling] = [open(), open()];
    trickling.write('GET /v2/ HTTP/1.1\r\nHost: x\r\n');
    const timer = setInterval(() => trickling.write('X-A: a\r\n'), 50);
    try {
      for (const socket of [silent, trickling]) socket.resume();
      await Promise.all([closed(silent), closed(trickling)]);
    } finally {
      clearInterval(timer);
    }
    expect((await proxy.fetch('/healthz')).status).toBe(200);
  });

  test('a client that takes nothing is dropped, and others hear nothing of it', async () => {
    await start({ stalledClientMs: 1_000 });
    const digest = upstream.putBlob(Buffer.alloc(64 * 1024 * 1024, 'x'));
    const stalled = open();
    stalled.write(`GET /v2/lib/a/blobs/${digest} HTTP/1.1\r\nHost: x\r\n\r\n`);
    await once(stalled, 'readable');
    stalled.pause();
    expect(await bytesOf(await proxy.fetch(`/v2/lib/a/blobs/${digest}`))).toHaveLength(64 * 1024 * 1024);
    await vi.waitFor(() => expect(proxy.logged.some((line) => line['broken'] === true)).toBe(true), {
      timeout: 30_000,
    });
    expect(await bytesOf(await proxy.fetch(`/v2/lib/a/blobs/${digest}`))).toHaveLength(64 * 1024 * 1024);
  });

  test('a client that waits for a slow upstream is not dropped', async () => {
    await start({ stalledClientMs: 200 });
    const image = upstream.putImage([LAYER], '1');
    upstream.intercept = (request, response) => {
      if (request.method !== 'GET') return false;
      void sleep(1_000).then(() => response.writeHead(200, { 'content-length': LAYER.length }).end(LAYER));
      return true;
    };
    expect(await bytesOf(await proxy.fetch(`/v2/lib/a/blobs/${image.layers[0]}`))).toEqual(LAYER);
  });

  test('connections over the limit are closed at once, and there is room again when others end', async () => {
    await start({ max: 3 });
    const held = [open(), open(), open()];
    await Promise.all(held.map((socket) => once(socket, 'connect')));
    await vi.waitFor(async () => {
      const over = open();
      await closed(over);
    });
    for (const socket of held) socket.destroy();
    await vi.waitFor(async () => expect((await proxy.fetch('/healthz')).status).toBe(200), {
      timeout: 30_000,
    });
  });
});
