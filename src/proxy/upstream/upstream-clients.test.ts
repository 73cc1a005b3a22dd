import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { pino } from 'pino';
import { afterEach, expect, test } from 'vitest';
import { parseProxyConfig } from '../config.ts';
import { LiveConfig } from '../live-config.ts';
import { Metrics } from '../operators/metrics.ts';
import { openUpstreams } from './upstream-clients.ts';
import type { Upstreams } from './upstreams.ts';

const log = pino({ level: 'silent' });
const cleanups: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});

async function opened(config: object): Promise<Upstreams> {
  const live = new LiveConfig(parseProxyConfig(config));
  const upstreams = openUpstreams(live, { metrics: new Metrics(), proxies: null, log });
  cleanups.push(() => upstreams.close());
  return upstreams;
}

/** Counts who connects. */
async function listener(): Promise<{ port: number; connections: () => number }> {
  let connections = 0;
  const server = createServer().on('connection', (socket) => {
    connections++;
    socket.destroy();
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  cleanups.push(() => server.close());
  return { port: (server.address() as AddressInfo).port, connections: () => connections };
}

test('what the allow-list matches is an upstream by ns and by path, whatever its case, with one client', async () => {
  const upstreams = await opened({ allowUpstreams: ['*.example.com', 'registry.corp:5000'] });
  const byNs = upstreams.choose('org/img', 'quay.example.com');
  expect(byNs.where).toEqual({ upstream: 'quay.example.com', repository: 'org/img' });
  expect(upstreams.choose('quay.example.com/org/img', null)).toEqual(byNs);
  expect(upstreams.choose('org/img', 'Quay.Example.COM').client).toBe(byNs.client);
  expect(upstreams.of(byNs.where).client).toBe(byNs.client);
  expect(upstreams.choose('registry.corp:5000/img', null).where.upstream).toBe('registry.corp:5000');
  // Not one of those: a namespace of the default upstream.
  expect(upstreams.choose('quay.io/img', null).where).toEqual({
    upstream: 'docker.io',
    repository: 'quay.io/img',
  });
});

test.each([
  '127.0.0.1',
  '[::1]:80',
  '2130706433',
  'evil.org',
  'example.com',
  'a.example.com:22',
  'a.example.com@x',
])('ns=%s is refused when the allow-list does not match it', async (namespace) => {
  const upstreams = await opened({ allowUpstreams: ['*.example.com'] });
  expect(() => upstreams.choose('img', namespace)).toThrow(
    expect.objectContaining({ distributionCode: 'NAME_UNKNOWN' }),
  );
});

test('a registry that the allow-list names in full may be on a private address', async () => {
  const { port, connections } = await listener();
  const upstreams = await opened({ allowUpstreams: [`localhost:${port}`] });
  const { client } = upstreams.choose('org/img', `localhost:${port}`);
  await expect(client.resolve('org/img', '1')).rejects.toMatchObject({ code: 'ERR_REGISTRY_UNREACHABLE' });
  expect(connections()).toBeGreaterThan(0);
});

test('clients of allowed registries are bounded', async () => {
  const upstreams = await opened({ allowUpstreams: ['*.example.com'] });
  const first = upstreams.choose('img', 'r0.example.com').client;
  for (let at = 1; at <= 300; at++) upstreams.choose('img', `r${at}.example.com`);
  expect(upstreams.choose('img', 'r300.example.com').client).toBe(
    upstreams.choose('img', 'r300.example.com').client,
  );
  expect(upstreams.choose('img', 'r0.example.com').client).not.toBe(first);
});

test('the state of each configured upstream names its mirrors and itself', async () => {
  const upstreams = await opened({
    upstreams: [{ name: 'reg.example', url: 'http://127.0.0.1:9', mirrors: [{ url: 'http://127.0.0.1:8' }] }],
  });
  const rested = { restingMs: 0, pausedMs: 0, quota: null, lastError: null };
  expect(upstreams.states()).toEqual([
    {
      name: 'reg.example',
      quota: null,
      endpoints: [
        { host: '127.0.0.1:8', isMirror: true, ...rested },
        { host: '127.0.0.1:9', isMirror: false, ...rested },
      ],
    },
  ]);
});

test.each([
  [{ url: 'http://a.io', tls: { ca: '/x' } }, /^upstreams\.0\.tls: http:\/\/a\.io is reached without TLS/],
  [
    { credentials: { username: 'u', passwordFile: '/nowhere' } },
    /^upstreams\.0\.credentials\.passwordFile: .*\/nowhere/,
  ],
  [{ credentials: { identityTokenFile: '/nowhere' } }, /^upstreams\.0\.credentials\.identityTokenFile: /],
  [{ credentials: { dockerConfig: '/nowhere' } }, /^upstreams\.0\.credentials\.dockerConfig: .*docker login/],
  [
    { mirrors: [{ url: 'https://m.io', tls: { certificate: '/nowhere', key: '/nowhere' } }] },
    /^upstreams\.0\.mirrors\.0\.tls: cannot read \/nowhere/,
  ],
])('what cannot be read keeps the proxy from starting: %j', async (upstream, message) => {
  await expect(opened({ upstreams: [{ name: 'a.io', ...upstream }] })).rejects.toMatchObject({
    code: 'ERR_CONFIG',
    message: expect.stringMatching(message),
  });
});
