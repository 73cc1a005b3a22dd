import { expect, test } from 'vitest';
import { httpProxiesOf, proxyFor } from './http-proxies.ts';

const chosen = (environment: Record<string, string>, url: string) =>
  proxyFor(new URL(url), httpProxiesOf(environment))?.href ?? null;

test.each([
  [{ HTTP_PROXY: 'http://p:1' }, 'http://a.io/', 'http://p:1/'],
  [{ HTTP_PROXY: 'http://p:1' }, 'https://a.io/', null],
  [{ HTTPS_PROXY: 'http://p:1' }, 'https://a.io/', 'http://p:1/'],
  [{ HTTPS_PROXY: 'http://p:1' }, 'http://a.io/', null],
  [{ https_proxy: 'http://low:1', HTTPS_PROXY: 'http://up:1' }, 'https://a.io/', 'http://low:1/'],
  [{ https_proxy: '', HTTPS_PROXY: 'http://up:1' }, 'https://a.io/', 'http://up:1/'],
  [{ HTTPS_PROXY: 'p:3128' }, 'https://a.io/', 'http://p:3128/'],
  [{}, 'https://a.io/', null],
])('%j: the proxy for %s is %s', (environment, url, proxy) => {
  expect(chosen(environment, url)).toBe(proxy);
});

test.each([
  ['*', 'https://a.io/'],
  ['a.io', 'https://a.io/'],
  ['a.io', 'https://b.a.io/'],
  ['b.io, .a.io', 'https://b.a.io/'],
  ['*.a.io', 'https://b.a.io/'],
  ['A.IO', 'https://a.io./'],
  ['a.io:443', 'https://a.io/'],
  ['a.io:5000', 'https://a.io:5000/'],
  ['10.0.0.5', 'https://10.0.0.5/'],
  ['10.0.0.0/8', 'https://10.1.2.3/'],
  ['fd00::/8', 'https://[fd00::5]/'],
  ['fd00::5', 'https://[fd00:0::5]/'],
  ['[fd00::5]:443', 'https://[fd00::5]/'],
])('NO_PROXY=%s keeps %s off the proxy', (exceptions, url) => {
  expect(chosen({ HTTPS_PROXY: 'http://p:1', NO_PROXY: exceptions }, url)).toBeNull();
});

test.each([
  ['a.io', 'https://ba.io/'],
  ['.a.io', 'https://a.io/'],
  ['*.a.io', 'https://a.io/'],
  ['a.io:80', 'https://a.io/'],
  ['10.0.0.0/8', 'https://11.0.0.1/'],
  ['10.0.0.0/99', 'https://10.0.0.1/'],
  ['0.0.5', 'https://10.0.0.5/'],
  ['fd00::/8', 'https://10.0.0.5/'],
])('NO_PROXY=%s says nothing about %s', (exceptions, url) => {
  expect(chosen({ HTTPS_PROXY: 'http://p:1', NO_PROXY: exceptions }, url)).toBe('http://p:1/');
});

test.each(['http://127.0.0.1:5000/', 'http://localhost/', 'https://[::1]:5000/'])(
  'this machine is never asked for through a proxy: %s',
  (url) => {
    expect(chosen({ HTTP_PROXY: 'http://p:1', HTTPS_PROXY: 'http://p:1' }, url)).toBeNull();
  },
);

test.each(['socks5://p:1', 'http://'])(
  'what is no HTTP proxy is refused by the name of its variable: %s',
  (value) => {
    expect(() => httpProxiesOf({ HTTPS_PROXY: value })).toThrow(/^HTTPS_PROXY is not/);
  },
);
