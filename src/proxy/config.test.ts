import { expect, test } from 'vitest';
import { DEFAULT_LIMITS } from '../convert/layer-limits.ts';
import { parseProxyConfig } from './config.ts';
import { withoutUpstreamSecrets } from './upstream/upstream-config.ts';

test('an empty configuration is a proxy of Docker Hub', () => {
  const config = parseProxyConfig({});
  expect(config).toMatchObject({
    listen: { host: '127.0.0.1', port: 5100 },
    upstreams: [{ name: 'docker.io' }],
    defaultUpstream: 'docker.io',
    tagTtlMs: 60_000,
    conversion: { enabled: true, algorithm: 'zstd', level: 3, blockSize: 32_768 },
  });
  expect(config.conversion.concurrency).toBeGreaterThan(0);
});

test('what is given is kept, and the first upstream is the default', () => {
  const config = parseProxyConfig({
    listen: '[::1]:80',
    upstreams: [
      { name: 'quay.io', credentials: { username: 'u', password: 'p' } },
      { name: 'localhost:5000', url: 'http://127.0.0.1:5000' },
    ],
    conversion: { algorithm: 'lz4' },
  });
  expect(config.listen).toEqual({ host: '::1', port: 80 });
  expect(config.defaultUpstream).toBe('quay.io');
  const credentials = { way: 'password', value: 'p', username: 'u' };
  expect(config.upstreams).toEqual([
    { name: 'quay.io', credentials },
    { name: 'localhost:5000', url: 'http://127.0.0.1:5000' },
  ]);
  expect(config.conversion).toMatchObject({ enabled: true, algorithm: 'lz4' });
});

test('blobs are kept in the data directory, or in a bucket whose name is in the path if there is an endpoint', () => {
  expect(parseProxyConfig({}).storage).toEqual({ kind: 'directory', minFreeBytes: 268_435_456 });
  const s3 = { kind: 's3', bucket: 'images', prefix: 'dadi', endpoint: 'https://s3.example.com' };
  expect(parseProxyConfig({ storage: s3 }).storage).toMatchObject({
    ...s3,
    prefix: 'dadi/',
    region: 'us-east-1',
    cacheBytes: 10_737_418_240,
  });
});

test.each([
  [{ listen: '5100' }, /^listen: write HOST:PORT/],
  [{ listen: 'a:70000' }, /^listen: .*65535/],
  [{ upstreams: [] }, /^upstreams: name at least one/],
  [{ upstreams: [{ name: 'https://quay.io' }] }, /^upstreams\.0\.name: write the registry/],
  [{ upstreams: [{ name: 'quay.io', url: 'ftp://quay.io' }] }, /^upstreams\.0\.url: write a URL/],
  [{ upstreams: [{ name: 'a.io' }, { name: 'a.io' }] }, /^upstreams: a\.io stands there twice/],
  [{ upstreams: [{ name: 'a.io', credentials: { helper: '../x' } }] }, /credentials\.helper: write NAME/],
  [
    { upstreams: [{ name: 'a.io', mirrors: [{ url: 'a.io' }] }] },
    /^upstreams\.0\.mirrors\.0\.url: write a URL/,
  ],
  [{ upstreams: [{ name: 'a.io', tls: { caFile: '/x' } }] }, /^upstreams\.0\.tls: .*caFile/],
  [{ allowUpstreams: ['10.0.0.1'] }, /^allowUpstreams\.0: write HOST/],
  [{ defaultUpstream: 'quay.io' }, /^defaultUpstream: quay\.io is none of the upstreams \(docker\.io\)/],
  [{ storage: { kind: 'tape' } }, /^storage\.kind: /],
  [{ storage: { kind: 's3' } }, /^storage\.bucket: /],
  [{ storage: { kind: 's3', bucket: 'No' } }, /^storage\.bucket: write the name of a bucket/],
  [{ storage: { kind: 's3', bucket: 'images', endpoint: 's3' } }, /^storage\.endpoint: write a URL/],
  [{ storage: { kind: 'directory', bucket: 'images' } }, /^storage: /],
  [{ conversion: { blockSize: 65_536 } }, /^conversion\.blockSize: is 4096/],
  [{ conversion: { limits: { layerEntries: 0 } } }, /^conversion\.limits\.layerEntries: /],
  [{ conversion: { limits: { entries: 5 } } }, /entries/],
  [{ tagTtl: 5 }, /^configuration: there is no key tagTtl; did you mean tagTtlMs\?/],
  [{ upstreams: [{ name: 'a.io', credential: {} }] }, /^upstreams\.0: .*did you mean credentials\?/],
  [{ admin: { port: 1 } }, /^admin: there is no key port; the keys here are listen/],
  [{ tagTtlMs: '5' }, /^tagTtlMs: is a text; write a number/],
  [{ logLevel: 'loud' }, /^logLevel: .*write trace, debug, info, warn, error or silent/],
  [{ conversion: { level: 99 } }, /^conversion\.level: is too large; write at most 22/],
])('%j is refused with a message that names the key', (input, message) => {
  expect(() => parseProxyConfig(input)).toThrow(
    expect.objectContaining({ code: 'ERR_CONFIG', message: expect.stringMatching(message) }),
  );
});

test('a limit that is given leaves the others as they are', () => {
  expect(parseProxyConfig({}).conversion.limits).toEqual(DEFAULT_LIMITS);
  const { limits } = parseProxyConfig({ conversion: { limits: { layerEntries: 5 } } }).conversion;
  expect(limits).toEqual({ ...DEFAULT_LIMITS, layerEntries: 5 });
});

test('where a wrong value stands is named, if it is known', () => {
  const source = (path: readonly PropertyKey[]) => `/etc/${path.join('-')}`;
  expect(() => parseProxyConfig({ listen: 'x' }, source)).toThrow(/^\/etc\/listen: listen: write HOST/);
  expect(() => parseProxyConfig({ lisen: 'x' }, source)).toThrow(/^\/etc\/lisen: .*did you mean listen/);
});

test('every wrong key is named at once', () => {
  expect(() => parseProxyConfig({ listen: 'x', tagTtlMs: -1 })).toThrow(/listen: .*\ntagTtlMs: /);
});

test('what is secret is not shown', () => {
  const secret = { username: 'u', password: 'hush' };
  const mirrors = [{ url: 'https://m.io', credentials: { identityToken: 'hush' } }];
  const { upstreams } = parseProxyConfig({
    upstreams: [
      { name: 'a.io', credentials: secret, mirrors },
      { name: 'b.io', credentials: { dockerConfig: '/root/.docker/config.json' } },
    ],
  });
  const shown = JSON.stringify(upstreams.map(withoutUpstreamSecrets));
  expect(shown).not.toContain('hush');
  expect(shown).toContain('/root/.docker/config.json');
});

test.each([
  {},
  { username: 'u' },
  { password: 'p' },
  { username: 'u', password: 'p', passwordFile: '/p' },
  { username: 'u', identityToken: 't' },
  { helper: 'a', dockerConfig: '/c' },
])('credentials that are none or two ways are refused: %j', (credentials) => {
  expect(() => parseProxyConfig({ upstreams: [{ name: 'a.io', credentials }] })).toThrow(
    /^upstreams\.0\.credentials: give username with password/,
  );
});
