import { BlockList, isIP } from 'node:net';
import { bareAddress, isLoopback } from './registry-url.ts';

/** HTTP proxies on the way to registries, as curl, Docker and containerd understand their environment. */
export interface HttpProxies {
  /** For URLs with http; null for none. */
  readonly http: URL | null;
  /** For URLs with https, by CONNECT. */
  readonly https: URL | null;
  /** What is reached without them: `NO_PROXY`. */
  readonly exceptions: string;
}

/** Something in `HTTP_PROXY` or `HTTPS_PROXY` that is no proxy's address. */
export class HttpProxyError extends Error {
  override readonly name = 'HttpProxyError';
  readonly code = 'ERR_HTTP_PROXY';
}

/**
 * What an environment says: `http_proxy`, `https_proxy`, `no_proxy`; upper case counts where lower case is missing.
 * @throws HttpProxyError that names the variable
 */
export function httpProxiesOf(environment: Readonly<Record<string, string | undefined>>): HttpProxies {
  const lookUp = (name: string) => environment[name] || environment[name.toUpperCase()] || '';
  return {
    http: proxyUrl('HTTP_PROXY', lookUp('http_proxy')),
    https: proxyUrl('HTTPS_PROXY', lookUp('https_proxy')),
    exceptions: lookUp('no_proxy'),
  };
}

function proxyUrl(variable: string, value: string): URL | null {
  if (value === '') return null;
  const text = value.includes('://') ? value : `http://${value}`;
  const url = URL.canParse(text) ? new URL(text) : null;
  if (url?.protocol === 'http:' || url?.protocol === 'https:') return url;
  throw new HttpProxyError(`${variable} is not the address of an HTTP proxy; write http://HOST:PORT`);
}

/**
 * The proxy by which a URL is to be asked for, null for none. As elsewhere in this field (Go's net/http), this
 * machine itself is never asked for through a proxy, and an exception is `*`, an address, a network
 * (`10.0.0.0/8`), a domain with all below it (`example.com`) or only what is below it (`.example.com`), each
 * but the network with a port if wanted.
 */
export function proxyFor(url: URL, { http, https, exceptions }: HttpProxies): URL | null {
  const proxy = url.protocol === 'https:' ? https : http;
  if (proxy === null || isLoopback(url)) return null;
  const host = bareAddress(url.hostname).toLowerCase().replace(/\.$/, '');
  const port = url.port === '' ? (url.protocol === 'https:' ? '443' : '80') : url.port;
  const isExcepted = exceptions
    .split(/[\s,]+/)
    .filter((one) => one !== '')
    .some((one) => matches(one.toLowerCase(), host, port));
  return isExcepted ? null : proxy;
}

function matches(exception: string, host: string, port: string): boolean {
  if (exception === '*') return true;
  if (exception.includes('/')) return isInNetwork(exception, host);
  const { name, port: wanted } = splitPort(exception);
  if (wanted !== null && wanted !== port) return false;
  if (isIP(name) !== 0) return sameAddress(name, host);
  if (isIP(host) !== 0) return false;
  const below = name.replace(/^\*?\./, '');
  return host.endsWith(`.${below}`) || (host === below && below === name);
}

/** `host:port`, `[v6]:port`, `[v6]`, or without a port: a bare IPv6 address has colons of its own. */
function splitPort(text: string): { name: string; port: string | null } {
  if (isIP(text) !== 0) return { name: text, port: null };
  const groups = /^(?:\[(?<address>[^\]]+)\]|(?<name>[^:]+))(?::(?<port>\d+))?$/.exec(text)?.groups;
  return { name: groups?.['address'] ?? groups?.['name'] ?? text, port: groups?.['port'] ?? null };
}

function sameAddress(a: string, b: string): boolean {
  return isIP(a) === isIP(b) && isInNetwork(`${a}/${isIP(a) === 6 ? 128 : 32}`, b);
}

function isInNetwork(network: string, host: string): boolean {
  const [address = '', prefix = ''] = network.split('/');
  const version = isIP(address);
  const bits = Number(prefix);
  if (version === 0 || isIP(host) !== version || !/^\d{1,3}$/.test(prefix)) return false;
  if (bits > (version === 6 ? 128 : 32)) return false;
  const family = version === 6 ? 'ipv6' : 'ipv4';
  const list = new BlockList();
  list.addSubnet(address, bits, family);
  return list.check(host, family);
}
