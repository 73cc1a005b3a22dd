import { isDeepStrictEqual } from 'node:util';
import { LRUCache } from 'lru-cache';
import type { Logger } from 'pino';
import type { HttpProxies } from '../../oci/http-proxies.ts';
import { RegistryClient } from '../../oci/registry-client.ts';
import { readRegistryTls } from '../../oci/registry-tls.ts';
import { registryUrl } from '../../oci/registry-url.ts';
import type { ProxyConfig } from '../config.ts';
import type { LiveConfig } from '../live-config.ts';
import type { Metrics } from '../operators/metrics.ts';
import { AllowList } from './allow-list.ts';
import { openRegistryAccess } from './upstream-access.ts';
import type { UpstreamConfig } from './upstream-config.ts';
import { type FindUpstream, type Upstream, Upstreams } from './upstreams.ts';

export interface UpstreamSurroundings {
  readonly metrics: Pick<Metrics, 'observer'>;
  /** On the way to all of them; null for none. */
  readonly proxies: HttpProxies | null;
  readonly log: Logger;
}

/**
 * The configured upstreams, and from then on those that the configuration names.
 * @throws ConfigError that names the key of what cannot be read; a later configuration is refused with it
 */
export function openUpstreams(live: LiveConfig, around: UpstreamSurroundings): Upstreams {
  const open = (config: UpstreamConfig, at: number) => openUpstream(config, `upstreams.${at}`, around);
  const { upstreams: configs, defaultUpstream } = live.current;
  const upstreams = new Upstreams(configs.map(open), defaultUpstream, allowedUpstreams(live, around));
  live.onChange((now, before) => {
    // One that stays as it was keeps its connections and tokens.
    const next = now.upstreams.map((config, at) => kept(config, before, upstreams) ?? open(config, at));
    return () => upstreams.replace(next, now.defaultUpstream);
  });
  return upstreams;
}

function kept(config: UpstreamConfig, before: ProxyConfig, upstreams: Upstreams): Upstream | null {
  const same = before.upstreams.some((other) => isDeepStrictEqual(other, config));
  return same ? upstreams.get(config.name) : null;
}

function openUpstream(upstream: UpstreamConfig, key: string, around: UpstreamSurroundings): Upstream {
  const { name, url, mirrors = [], timeouts, maxConnections } = upstream;
  const { proxies, log, metrics } = around;
  const client = new RegistryClient({
    ...openRegistryAccess(url ?? registryUrl(name).href, upstream, name, key, log),
    mirrors: mirrors.map((mirror, at) => ({
      ...openRegistryAccess(mirror.url, mirror, new URL(mirror.url).host, `${key}.mirrors.${at}`, log),
      namespace: name,
    })),
    proxies,
    observer: metrics.observer(name),
    ...(timeouts === undefined ? {} : { timeouts }),
    ...(maxConnections === undefined ? {} : { maxConnections }),
  });
  return { name, client };
}

/** So many registries that nobody has configured are remembered with their tokens and connections. */
const MAX_ALLOWED = 200;
/** Names of what clients ask for would be labels without end. */
const ALLOWED_LABEL = '(allowed)';

/** Clients of registries that the allow-list matches, made when they are first asked for. */
function allowedUpstreams(live: LiveConfig, { metrics, proxies }: UpstreamSurroundings): FindUpstream {
  // One that is forgotten is not closed, for downloads from it may go on; its idle connections end by themselves.
  const clients = new LRUCache<string, RegistryClient>({ max: MAX_ALLOWED });
  return (written) => {
    const name = written.toLowerCase();
    const reach = new AllowList(live.current.allowUpstreams).reachOf(name);
    if (reach === null) return null;
    const key = `${name} ${reach}`;
    let client = clients.get(key);
    if (client === undefined) {
      const baseUrl = registryUrl(name, { plainHttp: false });
      const observer = metrics.observer(ALLOWED_LABEL);
      client = new RegistryClient({ baseUrl, tls: readRegistryTls({}), proxies, reach, observer });
      clients.set(key, client);
    }
    return { name, client };
  };
}
