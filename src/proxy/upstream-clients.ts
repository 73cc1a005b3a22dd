import { isDeepStrictEqual } from 'node:util';
import { RegistryClient } from '../oci/registry-client.ts';
import { registryUrl } from '../oci/registry-url.ts';
import type { ProxyConfig, UpstreamConfig } from './config.ts';
import type { LiveConfig } from './live-config.ts';
import type { Metrics } from './metrics.ts';
import { type Upstream, Upstreams } from './upstreams.ts';

/** The configured upstreams, and from then on those that the configuration names. */
export function openUpstreams(live: LiveConfig, metrics: Pick<Metrics, 'observer'>): Upstreams {
  const { upstreams: configs, defaultUpstream } = live.current;
  const open = ({ name, url, credentials }: UpstreamConfig): Upstream => {
    const baseUrl = url === undefined ? registryUrl(name) : new URL(url);
    const observer = metrics.observer(name);
    return { name, client: new RegistryClient({ baseUrl, credentials: credentials ?? null, observer }) };
  };
  const upstreams = new Upstreams(configs.map(open), defaultUpstream);
  live.onChange((now, before) => {
    // One that stays as it was keeps its connections and tokens.
    const next = now.upstreams.map((config) => kept(config, before, upstreams) ?? open(config));
    upstreams.replace(next, now.defaultUpstream);
  });
  return upstreams;
}

function kept(config: UpstreamConfig, before: ProxyConfig, upstreams: Upstreams): Upstream | null {
  const same = before.upstreams.some((other) => isDeepStrictEqual(other, config));
  return same ? upstreams.get(config.name) : null;
}
