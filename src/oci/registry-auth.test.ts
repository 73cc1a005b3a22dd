import { createServer, type IncomingMessage } from 'node:http';
import type { AddressInfo } from 'node:net';
import { text } from 'node:stream/consumers';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, expect, test } from 'vitest';
import { CachedCredentials, type CredentialsProvider, fixedSecret, type Secret } from './credentials.ts';
import { digestOf } from './digest.ts';
import { OciError } from './errors.ts';
import { type Challenge, parseChallenges } from './registry-auth.ts';
import { RegistryClient, type RegistryClientOptions } from './registry-client.ts';

const plain = (challenges: readonly Challenge[]) =>
  challenges.map(({ scheme, parameters }) => [scheme, Object.fromEntries(parameters)]);

test.each([
  [
    'Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/debian:pull"',
    [
      [
        'bearer',
        {
          realm: 'https://auth.docker.io/token',
          service: 'registry.docker.io',
          scope: 'repository:library/debian:pull',
        },
      ],
    ],
  ],
  ['Basic realm="a, \\"b\\" = c"', [['basic', { realm: 'a, "b" = c' }]]],
  [
    'Negotiate, Basic realm=x , BEARER Realm = "y",service=z',
    [
      ['negotiate', {}],
      ['basic', { realm: 'x' }],
      ['bearer', { realm: 'y', service: 'z' }],
    ],
  ],
  [
    'Negotiate YWJj==, Basic realm="x"',
    [
      ['negotiate', {}],
      ['ywjj', {}],
      ['basic', { realm: 'x' }],
    ],
  ],
  ['', []],
  [',,,"', []],
])('challenges are taken apart: %s', (header, expected) => {
  expect(plain(parseChallenges(header))).toEqual(expected);
});

test('a hostile challenge of 16 KiB is read at once', () => {
  const began = performance.now();
  for (const piece of ['a=', 'a="', '"\\', 'a ,', '=', ' '])
    parseChallenges(piece.repeat(16_384 / piece.length));
  expect(performance.now() - began).toBeLessThan(2000);
});

const cleanups: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});

interface Plan {
  /** Of the realm; the token service is the registry itself at `/token`. */
  readonly realm?: (self: string) => string;
  readonly expiresIn?: number;
  /** Whether the registry takes the n-th token, counted from 1. */
  readonly takes?: (n: number) => boolean;
  readonly tokenStatus?: number;
  readonly tokenStatusOf?: (authorization: string | undefined) => number;
  readonly tokenLocation?: string;
  readonly credentials?: RegistryClientOptions['credentials'];
  readonly tokenDelayMs?: number;
}

const blob = Buffer.from('blob');
const digest = digestOf(blob);

/** A registry that hands out numbered tokens, and takes or refuses them by plan. */
async function tokenRegistry(plan: Plan = {}) {
  const tokenRequests: {
    method: string;
    url: URL;
    authorization: string | undefined;
    form: Record<string, string>;
  }[] = [];
  let self = '';
  const sent: (string | undefined)[] = [];
  const isWelcome = (request: IncomingMessage): boolean => {
    const n = Number(/^Bearer token-([0-9]+)$/.exec(request.headers.authorization ?? '')?.[1] ?? 0);
    return n > 0 && (plan.takes ?? (() => true))(n);
  };
  const server = createServer(async (request, response) => {
    const { authorization } = request.headers;
    if (request.url?.startsWith('/token')) {
      const form = Object.fromEntries(new URLSearchParams(await text(request)));
      const { method = '' } = request;
      const n = tokenRequests.push({ method, url: new URL(request.url, self), authorization, form });
      await sleep(plan.tokenDelayMs ?? 0);
      response.statusCode = plan.tokenStatusOf?.(authorization) ?? plan.tokenStatus ?? 200;
      if (plan.tokenLocation !== undefined) response.setHeader('location', plan.tokenLocation);
      response.end(JSON.stringify({ access_token: `token-${n}`, expires_in: plan.expiresIn }));
      return;
    }
    sent.push(authorization);
    if (isWelcome(request)) {
      response.end(blob);
      return;
    }
    const repository = request.url?.split('/').slice(2, 4).join('/');
    const realm = (plan.realm ?? ((base) => `${base}token`))(self);
    response.writeHead(401, {
      'www-authenticate': `Bearer realm="${realm}",service="reg",scope="repository:${repository}:pull"`,
    });
    response.end('{"errors":[{"code":"UNAUTHORIZED","message":"who are you"}]}');
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  cleanups.push(() => {
    server.close();
    server.closeAllConnections();
  });
  self = `http://127.0.0.1:${(server.address() as AddressInfo).port}/`;
  const client = new RegistryClient({
    baseUrl: new URL(self),
    credentials: plan.credentials ?? { username: 'alice', password: 'pä:ss' },
    retry: { retries: 0 },
  });
  cleanups.push(() => client.close());
  const read = (repository = 'lib/a', who = client, signal?: AbortSignal) =>
    who.readBlob(repository, digest, { maxBytes: 100, signal });
  return { client, read, sent, tokenRequests };
}

test('a token is asked for with service, scope and credentials, and kept', async () => {
  const { read, sent, tokenRequests } = await tokenRegistry({ expiresIn: 300 });
  for (let i = 0; i < 3; i++) expect(await read()).toEqual(blob);
  expect(sent).toEqual([undefined, 'Bearer token-1', 'Bearer token-1', 'Bearer token-1']);
  expect(tokenRequests).toHaveLength(1);
  const [{ url, authorization } = { url: null, authorization: null }] = tokenRequests;
  expect(url?.search).toBe('?service=reg&scope=repository%3Alib%2Fa%3Apull&account=alice');
  expect(authorization).toBe(`Basic ${Buffer.from('alice:pä:ss').toString('base64')}`);
});

test('each repository and each identity has a token of its own', async () => {
  const { client, read, sent, tokenRequests } = await tokenRegistry();
  const anonymous = client.withCredentials(null);
  await read('lib/a');
  await read('lib/b');
  await read('lib/a', anonymous);
  await anonymous.close();
  await read('lib/a', client.withCredentials({ username: 'bob', password: 'x' }));
  await read('lib/a', client.withCredentials({ username: 'alice', password: 'pä:ss' }));
  const used = sent.filter((value) => value !== undefined).map((value) => value.at(-1));
  expect(used).toEqual(['1', '2', '3', '4', '1']);
  expect(tokenRequests.map(({ authorization }) => authorization === undefined)).toEqual([
    false,
    false,
    true,
    false,
  ]);
});

test('a token is not used shortly before it expires', async () => {
  const { read, sent } = await tokenRegistry({ expiresIn: 0.4 });
  await read();
  await sleep(250);
  await read();
  expect(sent).toEqual([undefined, 'Bearer token-1', 'Bearer token-2']);
});

test('a token that the registry no longer takes is renewed once, without an error', async () => {
  let revoked = 0;
  const { read, sent } = await tokenRegistry({ takes: (n) => n > revoked });
  await read();
  revoked = 1;
  expect(await read()).toEqual(blob);
  expect(sent.slice(2)).toEqual(['Bearer token-1', 'Bearer token-2']);
});

test('a registry that takes no token is an error after one new token', async () => {
  const { read, tokenRequests } = await tokenRegistry({ takes: () => false });
  await expect(read()).rejects.toMatchObject({
    code: 'ERR_REGISTRY_UNAUTHORIZED',
    status: 401,
    message: expect.stringContaining('who are you'),
  });
  expect(tokenRequests).toHaveLength(1);
});

test('readers at the same time share one token request, which outlives the first of them', async () => {
  const { read, tokenRequests } = await tokenRegistry({ tokenDelayMs: 200 });
  const controller = new AbortController();
  const first = read('lib/a', undefined, controller.signal);
  const others = [read(), read(), read()];
  await sleep(100);
  controller.abort(new Error('gone'));
  expect(await Promise.race([first.catch(String), sleep(60)])).toBe('Error: gone');
  expect(await Promise.all(others)).toEqual([blob, blob, blob]);
  expect(tokenRequests).toHaveLength(1);
});

test('wrong credentials are an error that names the token service', async () => {
  const { read } = await tokenRegistry({ tokenStatus: 401 });
  await expect(read()).rejects.toMatchObject({
    code: 'ERR_REGISTRY_UNAUTHORIZED',
    message: expect.stringMatching(/token service 127\.0\.0\.1:[0-9]+ answered 401/),
  });
});

test.each([
  ['another host in the clear', 'http://auth.example.com/token', 'ERR_REGISTRY_PROTOCOL'],
  ['the metadata service', 'http://169.254.169.254/token', 'ERR_REGISTRY_FORBIDDEN_ADDRESS'],
  ['a URL with credentials', 'http://x:y@127.0.0.1/token', 'ERR_REGISTRY_PROTOCOL'],
  ['no URL', 'token', 'ERR_REGISTRY_PROTOCOL'],
  ['another protocol', 'ftp://127.0.0.1/token', 'ERR_REGISTRY_FORBIDDEN_ADDRESS'],
])('a token realm that is %s gets no credentials', async (_what, realm, code) => {
  const { read, tokenRequests } = await tokenRegistry({ realm: () => realm });
  await expect(read()).rejects.toMatchObject({ code });
  expect(tokenRequests).toHaveLength(0);
});

test('a token realm at another name of this machine is fine for a registry on this machine', async () => {
  const { read, tokenRequests } = await tokenRegistry({
    realm: (self) => `${self.replace('127.0.0.1', 'localhost')}token`,
  });
  expect(await read()).toEqual(blob);
  expect(tokenRequests).toHaveLength(1);
});

test('an identity token is exchanged for a token by the form of the token service, and never sent elsewhere', async () => {
  const credentials = fixedSecret({ kind: 'identity-token', token: 'refresh me' });
  const { read, sent, tokenRequests } = await tokenRegistry({ credentials });
  expect(await read()).toEqual(blob);
  expect(await read()).toEqual(blob);
  expect(tokenRequests).toEqual([
    {
      method: 'POST',
      url: expect.objectContaining({ search: '' }),
      authorization: undefined,
      form: {
        grant_type: 'refresh_token',
        client_id: 'dadi-mirror',
        service: 'reg',
        scope: 'repository:lib/a:pull',
        refresh_token: 'refresh me',
      },
    },
  ]);
  expect(sent).toEqual([undefined, 'Bearer token-1', 'Bearer token-1']);
});

test('what a caller sent is passed on at once as it is, and a refusal carries the challenge for it', async () => {
  const { client, read, sent, tokenRequests } = await tokenRegistry({ takes: (n) => n === 7 });
  expect(await read('lib/a', client.withAuthorization('Bearer token-7'))).toEqual(blob);
  await expect(read('lib/a', client.withAuthorization('Bearer token-8'))).rejects.toMatchObject({
    code: 'ERR_REGISTRY_UNAUTHORIZED',
    challenge: expect.stringMatching(
      /^Bearer realm="http.*\/token",service="reg",scope="repository:lib\/a:pull"$/,
    ),
  });
  expect(sent).toEqual(['Bearer token-7', 'Bearer token-8']);
  expect(tokenRequests).toHaveLength(0);
});

test("a caller's user and password serve for tokens, and what was asked for need not be asked again", async () => {
  const { client, read, sent, tokenRequests } = await tokenRegistry();
  const basic = `Basic ${Buffer.from('bob:x').toString('base64')}`;
  expect(await read('lib/a', client.withAuthorization(basic))).toEqual(blob);
  expect(await read('lib/a', client.withAuthorization(basic))).toEqual(blob);
  expect(tokenRequests.map(({ authorization }) => authorization)).toEqual([basic]);
  expect(sent).toEqual([undefined, 'Bearer token-1', 'Bearer token-1']);
});

test('a token service that refuses is an error with the challenge of the registry, not its own', async () => {
  const { read } = await tokenRegistry({ tokenStatus: 401 });
  await expect(read()).rejects.toMatchObject({ challenge: expect.stringMatching(/^Bearer realm=.*lib\/a/) });
});

test('a token service that sends us elsewhere is not followed', async () => {
  const other = await tokenRegistry();
  const elsewhere = `http://${other.client.host}/token`;
  const { read } = await tokenRegistry({ tokenStatus: 307, tokenLocation: elsewhere });
  await expect(read()).rejects.toMatchObject({ code: 'ERR_REGISTRY_STATUS', status: 307 });
  expect(other.tokenRequests).toHaveLength(0);
});

const password = (value: string): Secret => ({ kind: 'password', username: 'alice', password: value });

test('credentials that the token service refuses are fetched again, once', async () => {
  const secrets = ['old', 'new', 'newer'].map(password);
  let loads = 0;
  const credentials = new CachedCredentials(async () => secrets[loads++] ?? null, { minAgeMs: 0 });
  const isNew = (authorization = '') => authorization.endsWith(Buffer.from('alice:new').toString('base64'));
  const { read, tokenRequests } = await tokenRegistry({
    credentials,
    tokenStatusOf: (authorization) => (isNew(authorization) ? 200 : 401),
  });
  expect(await read()).toEqual(blob);
  expect(await read('lib/b')).toEqual(blob);
  expect([loads, tokenRequests.length]).toEqual([2, 3]);
});

test('credentials that cannot be got are an error before anything is sent', async () => {
  const credentials: CredentialsProvider = {
    current: async () => {
      throw new OciError('ERR_CREDENTIALS', 'cannot read the secret in /etc/secret');
    },
    refused: () => {},
  };
  const { read, sent } = await tokenRegistry({ credentials });
  await expect(read()).rejects.toMatchObject({
    code: 'ERR_REGISTRY_CREDENTIALS',
    message: expect.stringContaining('/etc/secret'),
  });
  expect(sent).toHaveLength(0);
});

test('tokens of thousands of repositories are kept, and each is asked for once', async () => {
  const { read, tokenRequests } = await tokenRegistry();
  const repositories = Array.from({ length: 1000 }, (_, index) => `lib/r${index}`);
  for (let round = 0; round < 2; round++)
    await Promise.all(repositories.map((repository) => read(repository)));
  expect(tokenRequests).toHaveLength(1000);
});
