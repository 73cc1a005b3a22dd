import { lookup as dnsLookup } from 'node:dns';
import { BlockList, isIP, type LookupFunction } from 'node:net';
import { DEFAULT_REGISTRY } from './reference.ts';

/** Docker Hub is called one name and answers at another. */
const DOCKER_HUB_HOST = 'registry-1.docker.io';

/**
 * Where a registry that a user named answers: by https, but a registry on this machine's loopback by http, as
 * docker and podman do.
 * @param host host with optional port
 */
export function registryUrl(host: string, options: { readonly plainHttp?: boolean } = {}): URL {
  if (host === DEFAULT_REGISTRY) return new URL(`https://${DOCKER_HUB_HOST}/`);
  const url = new URL(`http://${host}/`);
  return (options.plainHttp ?? isLoopback(url)) ? url : new URL(`https://${host}/`);
}

/** Whether a URL names this machine, by address or as localhost. */
export function isLoopback(url: URL): boolean {
  const { hostname } = url;
  if (hostname === 'localhost' || hostname.endsWith('.localhost')) return true;
  const address = bareAddress(hostname);
  return isIP(address) !== 0 && inList(LOOPBACK, address);
}

/** Whether a host, by name or bare address, is this machine. */
export function isLoopbackHost(host: string): boolean {
  const url = URL.parse(`http://${hostInUrl(host)}/`);
  return url !== null && isLoopback(url);
}

const LOOPBACK = blockList(['127.0.0.0/8', '::1/128']);
const PRIVATE = blockList([
  ...['0.0.0.0/8', '10.0.0.0/8', '100.64.0.0/10', '127.0.0.0/8', '172.16.0.0/12', '192.168.0.0/16'],
  ...['192.0.0.0/24', '198.18.0.0/15', '224.0.0.0/4', '240.0.0.0/4'],
  ...['::/128', '::1/128', 'fc00::/7', 'ff00::/8'],
]);
/** Where clouds keep the machine's own credentials. */
const LINK_LOCAL = blockList(['169.254.0.0/16', 'fe80::/10', 'fd00:ec2::254/128']);

function blockList(subnets: readonly string[]): BlockList {
  const list = new BlockList();
  for (const subnet of subnets) {
    const [address = '', prefix] = subnet.split('/');
    list.addSubnet(address, Number(prefix), address.includes(':') ? 'ipv6' : 'ipv4');
  }
  return list;
}

function inList(list: BlockList, address: string): boolean {
  return list.check(address, address.includes(':') ? 'ipv6' : 'ipv4');
}

/** 0 anybody's, 1 a private network's, 2 the machine's own link. */
type Depth = 0 | 1 | 2;

/** Where a registry may stand itself: at public addresses only, in private networks too, or anywhere. */
export type Reach = 'public' | 'private' | 'any';

const MAX_DEPTH: Readonly<Record<Reach, Depth>> = { public: 0, private: 1, any: 2 };

/** How far inside an address is. */
function depth(address: string): Depth {
  if (inList(LINK_LOCAL, address)) return 2;
  return inList(PRIVATE, address) ? 1 : 0;
}

/** URLs write IPv6 addresses in brackets. */
export function bareAddress(hostname: string): string {
  return hostname.replace(/^\[(.*)\]$/, '$1');
}

/** A name or bare address as URLs write it. */
export function hostInUrl(host: string): string {
  return isIP(host) === 6 ? `[${host}]` : host;
}

/** A registry pointed at an address further inside than its own. */
export class ForbiddenAddressError extends Error {
  override readonly name = 'ForbiddenAddressError';
  readonly code = 'ERR_REGISTRY_FORBIDDEN_ADDRESS';
}

/**
 * Keeps a registry from sending us, by redirect or token realm, to places that it cannot see itself: a public
 * one to private networks, any to the cloud's metadata service. Names are judged by what they resolve to, and
 * the address that was judged is the one connected to.
 */
export class AddressGuard {
  readonly #registryHost: string;
  readonly #maxDepth: Depth;
  #registryDepth: Depth = 0;

  constructor(registry: URL, reach: Reach = 'any') {
    this.#registryHost = bareAddress(registry.hostname);
    this.#maxDepth = MAX_DEPTH[reach];
    if (isIP(this.#registryHost) !== 0) this.#registryDepth = depth(this.#registryHost);
  }

  /**
   * To be called with every URL before it is requested: connections to an address need no look-up.
   * @throws ForbiddenAddressError
   */
  check(url: URL): void {
    if (url.protocol !== 'https:' && url.protocol !== 'http:') {
      throw new ForbiddenAddressError(`it points to ${url.protocol}, which is not HTTP`);
    }
    const address = bareAddress(url.hostname);
    if (isIP(address) !== 0) this.#admit(address, address);
  }

  /** For the connector, in place of the resolver's own. */
  readonly lookup: LookupFunction = (hostname, options, callback) => {
    dnsLookup(hostname, { ...options, all: true }, (error, addresses) => {
      const [first] = addresses ?? [];
      if (error !== null || first === undefined) {
        callback(error ?? new Error(`${hostname} has no address`), '');
        return;
      }
      try {
        for (const { address } of addresses) this.#admit(hostname, address);
      } catch (refusal) {
        callback(refusal instanceof Error ? refusal : new Error(String(refusal)), '');
        return;
      }
      if (options.all === true) callback(null, addresses);
      else callback(null, first.address, first.family);
    });
  };

  #admit(hostname: string, address: string): void {
    const found = depth(address);
    if (hostname === this.#registryHost) {
      if (found > this.#maxDepth) {
        throw new ForbiddenAddressError(
          `${hostname} is at ${address}, an internal address: only a registry that is configured by its full name may be there`,
        );
      }
      if (found > this.#registryDepth) this.#registryDepth = found;
    } else if (found > this.#registryDepth) {
      throw new ForbiddenAddressError(
        `it points to ${hostname}${hostname === address ? '' : ` (${address})`}, an internal address that this registry has no business with`,
      );
    }
  }
}
