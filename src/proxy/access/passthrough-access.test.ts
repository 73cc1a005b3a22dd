import type { IncomingMessage, ServerResponse } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { FakeRegistry } from '../../../test/support/fake-registry.ts';
import { bytesOf, errorOf, TestProxy } from '../../../test/support/test-proxy.ts';
import { digestOf } from '../../oci/digest.ts';

const LAYER = Buffer.from('a layer');
const ALICE = basic('alice', 'secret');
const BOB = basic('bob', 'secret');

let upstream: FakeRegistry;
let proxy: TestProxy;

/** By the repositories' first part; anything else is anybody's. Some registries hide what they do not show. */
const RULES: Record<string, { reader: string; refusal: number }> = {
  private: { reader: ALICE, refusal: 401 },
  denied: { reader: ALICE, refusal: 403 },
  hidden: { reader: ALICE, refusal: 404 },
};

function rules(request: IncomingMessage, response: ServerResponse): boolean {
  const rule = RULES[/^\/v2\/([a-z]+)\//.exec(request.url ?? '')?.[1] ?? ''];
  if (rule === undefined || request.headers.authorization === rule.reader) return false;
  // Who is not known is asked first, whatever comes then.
  const status = request.headers.authorization === undefined ? 401 : rule.refusal;
  response.writeHead(status, status === 401 ? { 'www-authenticate': 'Basic realm="upstream"' } : {}).end();
  return true;
}

beforeEach(async () => {
  upstream = await FakeRegistry.start();
  upstream.intercept = rules;
  proxy = await start();
});

afterEach(async () => {
  await proxy.remove();
  await upstream.stop();
});

function start(access: object = {}, more: object = {}): Promise<TestProxy> {
  return TestProxy.start({
    upstreams: [{ name: 'reg.example', url: upstream.url }],
    access: { mode: 'passthrough', ...access },
    conversion: { enabled: false },
    ...more,
  });
}

function basic(username: string, password: string): string {
  return `Basic ${Buffer.from(`${username}:${password}`).toString('base64')}`;
}

function get(path: string, authorization?: string, method = 'GET'): Promise<Response> {
  return proxy.fetch(path, { method, headers: authorization === undefined ? {} : { authorization } });
}

/** All that an answer says, without what is of the moment. */
async function shapeOf(response: Response): Promise<object> {
  const headers = Object.fromEntries(response.headers);
  for (const name of ['date', 'x-request-id', 'content-length']) delete headers[name];
  return { status: response.status, headers, body: await response.text() };
}

test('who may read upstream may read here, and nobody else, also not what is kept here', async () => {
  const image = upstream.putImage([LAYER], '1');
  for (const repository of ['private/a', 'denied/a', 'hidden/a']) {
    expect(await bytesOf(await get(`/v2/${repository}/manifests/1`, ALICE))).toEqual(image.bytes);
    const blob = `/v2/${repository}/blobs/${image.layers[0]}`;
    expect(await bytesOf(await get(blob, ALICE))).toEqual(LAYER);
    const refusal = RULES[repository.split('/')[0]!]!.refusal;
    expect((await get(blob, BOB)).status).toBe(refusal);
    expect((await get(blob)).status).toBe(401);
  }
});

test('a refusal is the same, word by word, for what is kept and for what is not', async () => {
  const image = upstream.putImage([LAYER], 'kept');
  const nothing = digestOf('nothing');
  let callers = 0;
  // A refusal that is remembered is one without a question, whatever was asked for: each caller is a new one.
  const strangers: readonly (() => Promise<string | undefined>)[] = [
    async () => basic(`bob-${callers++}`, 'secret'),
    async () => {
      await proxy.stop();
      await proxy.start();
      return undefined;
    },
  ];
  for (const repository of ['private/a', 'denied/a', 'hidden/a']) {
    await bytesOf(await get(`/v2/${repository}/manifests/kept`, ALICE));
    await bytesOf(await get(`/v2/${repository}/blobs/${image.layers[0]}`, ALICE));
    for (const [kept, other] of [
      ['manifests/kept', 'manifests/none'],
      [`manifests/${image.digest}`, `manifests/${nothing}`],
      [`blobs/${image.layers[0]}`, `blobs/${nothing}`],
      [`referrers/${image.digest}`, `referrers/${nothing}`],
    ] as const) {
      for (const stranger of strangers) {
        for (const method of ['GET', 'HEAD']) {
          const ask = async (path: string) => {
            const authorization = await stranger();
            const before = upstream.requests.length;
            const shape = await shapeOf(await get(`/v2/${repository}/${path}`, authorization, method));
            const asked = upstream.requests.slice(before).map((seen) => seen.method);
            const said = JSON.stringify({ shape, asked }).replaceAll(path.split('/')[1]!, 'IT');
            return said.replaceAll(proxy.host, 'HERE');
          };
          const [ofKept, ofOther] = [await ask(kept), await ask(other)];
          expect(ofKept, `${method} ${repository}/${kept}`).toBe(ofOther);
        }
      }
    }
  }
});

test('a challenge names where tokens are had, and a token stands for the credentials it was given for', async () => {
  const image = upstream.putImage([LAYER], '1');
  const path = '/v2/private/a/manifests/1';
  for (const [asked, scope] of [
    ['/v2/', ''],
    [path, ',scope="repository:private/a:pull"'],
  ] as const) {
    const refused = await get(asked);
    expect(refused.headers.get('www-authenticate')).toBe(
      `Bearer realm="${proxy.url}/dadi/v1/token",service="dadi-mirror"${scope}`,
    );
    expect(await errorOf(refused)).toMatchObject({ status: 401, code: 'UNAUTHORIZED' });
  }
  const tokenOf = async (authorization?: string) => {
    const answer = await get(
      '/dadi/v1/token?service=dadi-mirror&scope=repository:private/a:pull',
      authorization,
    );
    expect(answer.headers.get('cache-control')).toBe('no-store');
    return `Bearer ${((await answer.json()) as { token: string }).token}`;
  };
  const [alices, bobs, anybodys] = [await tokenOf(ALICE), await tokenOf(BOB), await tokenOf()];
  expect(await bytesOf(await get(path, alices))).toEqual(image.bytes);
  expect(alices).not.toContain('secret');
  const refused = await get(path, bobs);
  expect(refused.status).toBe(401);
  expect(refused.headers.get('www-authenticate')).toContain('error="insufficient_scope"');
  expect((await get(path, anybodys)).status).toBe(401);
  for (const token of [alices, anybodys]) expect((await get('/v2/', token)).status).toBe(200);
});

test('a token that was changed, or is of another process or another service, gives nothing and goes nowhere', async () => {
  upstream.putImage([LAYER], '1');
  const { token } = (await (await get('/dadi/v1/token', ALICE)).json()) as { token: string };
  const changed = token.slice(0, -2) + (token.endsWith('AA') ? 'BB' : 'AA');
  for (const wrong of [changed, 'eyJhbGciOiJub25lIn0.e30.', 'dadi1.', `dadi1.${'A'.repeat(60)}`]) {
    for (const path of ['/v2/', '/v2/private/a/manifests/1', '/v2/public/a/manifests/1']) {
      const refused = await get(path, `Bearer ${wrong}`);
      expect(refused.status).toBe(401);
      expect(refused.headers.get('www-authenticate')).toContain('error="invalid_token"');
    }
  }
  for (const wrong of [
    'Basic',
    'Basic !',
    `Basic ${Buffer.from('nocolon').toString('base64')}`,
    'Digest x=y',
  ]) {
    expect((await get('/v2/public/a/manifests/1', wrong)).status).toBe(401);
  }
  expect(upstream.requests).toEqual([]);
  await proxy.stop();
  await proxy.start();
  expect((await get('/v2/', `Bearer ${token}`)).status).toBe(401);
});

test('replicas that share a secret take each other’s tokens', async () => {
  const access = { tokenSecret: 'a secret of thirty-two characters' };
  const others = [await start(access), await start(access)] as const;
  try {
    upstream.putImage([LAYER], '1');
    const issued = await others[0].fetch('/dadi/v1/token', { headers: { authorization: ALICE } });
    const { token } = (await issued.json()) as { token: string };
    const headers = { authorization: `Bearer ${token}` };
    expect((await others[1].fetch('/v2/private/a/manifests/1', { headers })).status).toBe(200);
  } finally {
    for (const other of others) await other.remove();
  }
});

test('what anybody may read needs no credentials, and the proxy’s own are never used for a caller', async () => {
  await proxy.remove();
  const credentials = { username: 'alice', password: 'secret' };
  proxy = await start({}, { upstreams: [{ name: 'reg.example', url: upstream.url, credentials }] });
  const image = upstream.putImage([LAYER], '1');
  expect(await bytesOf(await get('/v2/public/a/manifests/1'))).toEqual(image.bytes);
  expect((await get('/v2/private/a/manifests/1')).status).toBe(401);
  expect((await get('/v2/private/a/manifests/1', BOB)).status).toBe(401);
  expect((await get('/v2/private/a/tags/list', BOB)).status).toBe(401);
});

test('to know a digest from one repository is no right to it in another', async () => {
  const secret = upstream.putImage([LAYER, Buffer.from('more')], '1');
  await bytesOf(await get('/v2/private/a/manifests/1', ALICE));
  for (const digest of [...secret.layers, secret.config]) {
    await bytesOf(await get(`/v2/private/a/blobs/${digest}`, ALICE));
  }
  // The thief may write there, at an upstream that takes manifests without a look at what they name.
  const parsed = JSON.parse(secret.bytes.toString());
  const manifest = upstream.putManifest(
    Buffer.from(JSON.stringify({ ...parsed, annotations: { by: 'a thief' } })),
    parsed.mediaType,
    'theft',
  );
  const index = upstream.putIndex([secret], 'index');
  upstream.intercept = (request, response) => {
    const isTheirs = [manifest, index.digest, 'theft', 'index', 'list'].some((end) =>
      request.url?.split('?')[0]?.endsWith(end),
    );
    if (!request.url?.startsWith('/v2/thief/') || isTheirs) return rules(request, response);
    response.writeHead(404).end();
    return true;
  };
  for (const tag of ['theft', 'index']) {
    expect((await get(`/v2/thief/a/manifests/${tag}`, BOB)).status).toBe(200);
  }
  for (const digest of [...secret.layers, secret.config]) {
    for (const method of ['GET', 'HEAD']) {
      expect((await get(`/v2/thief/a/blobs/${digest}`, BOB, method)).status).toBe(404);
    }
  }
  expect((await get(`/v2/thief/a/manifests/${secret.digest}`, BOB)).status).toBe(404);
});

test('one with rights to a repository is told the same of what only others have and of what nobody has', async () => {
  const image = upstream.putImage([LAYER], '1');
  await bytesOf(await get('/v2/private/a/manifests/1', ALICE));
  await bytesOf(await get(`/v2/private/a/blobs/${image.layers[0]}`, ALICE));
  upstream.intercept = (request, response) => {
    if (!request.url?.startsWith('/v2/bobs/') || request.url.includes('/tags/'))
      return rules(request, response);
    response.writeHead(404, { 'content-type': 'application/json' });
    response.end('{"errors":[{"code":"NONE","message":"not here"}]}');
    return true;
  };
  for (const method of ['GET', 'HEAD']) {
    for (const [kept, kind] of [
      [image.digest, 'manifests'],
      [image.layers[0]!, 'blobs'],
      [image.digest, 'referrers'],
    ] as const) {
      const ask = async (digest: string) => {
        const before = upstream.requests.length;
        const shape = await shapeOf(await get(`/v2/bobs/a/${kind}/${digest}`, BOB, method));
        const asked = upstream.requests.slice(before).map((seen) => seen.method);
        return JSON.stringify({ shape, asked }).replaceAll(digest, 'IT');
      };
      // The first question is for the right, too.
      await ask(digestOf('first'));
      expect(await ask(kept), `${method} ${kind}`).toBe(await ask(digestOf('none')));
    }
  }
});

test('no list covers the repositories of all', async () => {
  const refused = await get('/v2/_catalog', ALICE);
  expect(await errorOf(refused)).toMatchObject({ status: 403, code: 'DENIED' });
});

test('upstream’s word holds for its time, and is not missed before', async () => {
  const image = upstream.putImage([LAYER], '1');
  const blob = `/v2/private/a/blobs/${image.layers[0]}`;
  await bytesOf(await get(blob, ALICE));
  const before = upstream.requests.length;
  await upstream.stop();
  expect(await bytesOf(await get(blob, ALICE))).toEqual(LAYER);
  expect(upstream.requests).toHaveLength(before);
  // Others have no word of upstream's, and nothing is served without it.
  for (const [path, authorization] of [
    [blob, BOB],
    [blob, undefined],
    [`/v2/private/b/blobs/${image.layers[0]}`, ALICE],
  ] as const) {
    expect(await errorOf(await get(path, authorization))).toMatchObject({ status: 503, code: 'UNAVAILABLE' });
  }
});

test('an upstream that answers with errors of its own has not said yes', async () => {
  const image = upstream.putImage([LAYER], '1');
  await bytesOf(await get(`/v2/private/a/blobs/${image.layers[0]}`, ALICE));
  for (const status of [500, 503, 429]) {
    upstream.intercept = (_request, response) => {
      response.writeHead(status).end();
      return true;
    };
    const refused = await get(`/v2/private/a/blobs/${image.layers[0]}`, BOB);
    expect(await errorOf(refused)).toMatchObject({ status: 503, code: 'UNAVAILABLE' });
  }
});

test('when upstream does not answer, nobody is told what another one asked for', async () => {
  upstream.intercept = (request) => {
    request.socket.destroy();
    return true;
  };
  const first = await get('/v2/private/project-x/manifests/release-7', ALICE);
  expect(await first.text()).toContain('private/project-x');
  const second = await get('/v2/public/a/manifests/1', BOB);
  expect(second.status).toBe(503);
  expect(await second.text()).not.toMatch(/project-x|release-7/);
});

test('without a time for decisions, upstream is asked for each request', async () => {
  await proxy.remove();
  proxy = await start({ decisionTtlMs: 0 });
  const image = upstream.putImage([LAYER], '1');
  const blob = `/v2/private/a/blobs/${image.layers[0]}`;
  for (const round of [1, 2, 3]) {
    await bytesOf(await get(blob, ALICE));
    expect(upstream.requests.filter((seen) => seen.method === 'HEAD').length).toBeGreaterThanOrEqual(round);
  }
  upstream.intercept = (_request, response) => {
    response.writeHead(403).end();
    return true;
  };
  expect(await errorOf(await get(blob, ALICE))).toMatchObject({ status: 403, code: 'DENIED' });
});

test('a right that was refused is asked for again soon', async () => {
  const image = upstream.putImage([LAYER], '1');
  expect((await get('/v2/private/a/manifests/1', BOB)).status).toBe(401);
  upstream.intercept = () => false;
  await vi.waitFor(
    async () => expect(await bytesOf(await get('/v2/private/a/manifests/1', BOB))).toEqual(image.bytes),
    { timeout: 30_000, interval: 500 },
  );
});

test('who waits for a blob that another one is fetching had to be allowed to, first', async () => {
  const digest = upstream.putBlob(Buffer.alloc(4 * 1024 * 1024, 'x'));
  const begun = Promise.withResolvers<ServerResponse>();
  upstream.intercept = (request, response) => {
    if (rules(request, response)) return true;
    if (request.method !== 'GET') return false;
    response.writeHead(200, { 'content-length': 4 * 1024 * 1024 });
    response.write(Buffer.alloc(1024 * 1024, 'x'));
    begun.resolve(response);
    return true;
  };
  const path = `/v2/private/a/blobs/${digest}`;
  const alices = get(path, ALICE).then(bytesOf);
  const response = await begun.promise;
  expect((await get(path, BOB)).status).toBe(401);
  const seconds = get(path, ALICE).then(bytesOf);
  await sleep(100);
  response.end(Buffer.alloc(3 * 1024 * 1024, 'x'));
  for (const body of [await alices, await seconds]) expect(digestOf(body)).toBe(digest);
});

test('health is nobody’s secret', async () => {
  expect((await get('/healthz')).status).toBe(200);
});
