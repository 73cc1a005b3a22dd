import { afterEach, beforeEach } from 'vitest';
import { FakeRegistry } from './fake-registry.ts';
import { TestProxy } from './test-proxy.ts';

/** Of the running test. */
export let upstream: FakeRegistry;
export let proxy: TestProxy;

/** Gives each test of a file an empty upstream registry, and a proxy in front of it that knows it as `reg.example`. */
export function useProxiedRegistry(config: object = { tagTtlMs: 0, conversion: { enabled: false } }): void {
  beforeEach(async () => {
    upstream = await FakeRegistry.start();
    proxy = await TestProxy.start({ upstreams: [{ name: 'reg.example', url: upstream.url }], ...config });
  });

  afterEach(async () => {
    await proxy.remove();
    await upstream.stop();
  });
}
