import { changedKeys } from '../config/changed-keys.ts';
import type { ProxyConfig } from './config.ts';

/** The keys that may change while the proxy runs: who uses them reads {@link LiveConfig.current} at each use. */
const LIVE_KEYS = [
  'upstreams',
  'allowUpstreams',
  'defaultUpstream',
  'tagTtlMs',
  'cache',
  'logLevel',
  'drainMs',
] as const satisfies readonly (keyof ProxyConfig)[];

/** What became of a new configuration. */
export interface ConfigChange {
  /** The keys whose new values count from now on. */
  readonly applied: readonly string[];
  /** The keys whose new values count after a restart only. */
  readonly needRestart: readonly string[];
}

/** The configuration, of which a part may change while the proxy runs. */
export class LiveConfig {
  #current: ProxyConfig;
  readonly #listeners: ((now: ProxyConfig, before: ProxyConfig) => () => void)[] = [];

  constructor(config: ProxyConfig) {
    this.#current = config;
  }

  get current(): ProxyConfig {
    return this.#current;
  }

  /**
   * For what has to be made anew. `prepare` makes it, and throws ConfigError if it cannot (a file is missing): then
   * nothing changes. What it returns puts that to use, and must not throw.
   */
  onChange(prepare: (now: ProxyConfig, before: ProxyConfig) => () => void): void {
    this.#listeners.push(prepare);
  }

  /**
   * Takes over what can change while the proxy runs.
   * @throws ConfigError if it cannot be used after all
   */
  replace(next: ProxyConfig): ConfigChange {
    const before = this.#current;
    const live = Object.fromEntries(LIVE_KEYS.map((key) => [key, next[key]]));
    const now = { ...before, ...live };
    const applied = changedKeys(before, now);
    const prepared = applied.length === 0 ? [] : this.#listeners.map((prepare) => prepare(now, before));
    this.#current = now;
    for (const apply of prepared) apply();
    return { applied, needRestart: changedKeys(this.#current, next) };
  }
}
