import { expect, test } from 'vitest';
import { ConfigError } from '../config/errors.ts';
import { parseProxyConfig } from './config.ts';
import { LiveConfig } from './live-config.ts';

test('what can change at once counts at once, and the rest is named and stays as it was', () => {
  const live = new LiveConfig(parseProxyConfig({}));
  const change = live.replace(
    parseProxyConfig({
      listen: '127.0.0.1:1',
      tagTtlMs: 5,
      upstreams: [{ name: 'quay.io' }],
      conversion: { limits: { pathDepth: 7 }, level: 4 },
    }),
  );
  expect(change).toEqual({
    applied: ['upstreams', 'tagTtlMs', 'defaultUpstream'],
    needRestart: ['listen.port', 'conversion.level', 'conversion.limits.pathDepth'],
  });
  expect(live.current).toMatchObject({
    listen: { port: 5100 },
    tagTtlMs: 5,
    defaultUpstream: 'quay.io',
    conversion: { level: 3 },
  });
});

test('who has to make something anew is told of a change, and of none when nothing changed', () => {
  const live = new LiveConfig(parseProxyConfig({}));
  const told: number[][] = [];
  live.onChange((now, before) => () => told.push([now.tagTtlMs, before.tagTtlMs]));
  live.replace(parseProxyConfig({ tagTtlMs: 60_000 }));
  expect(told).toEqual([]);
  live.replace(parseProxyConfig({ tagTtlMs: 7 }));
  expect(told).toEqual([[7, 60_000]]);
});

test('a configuration for which something cannot be made is refused, and nothing changes', () => {
  const live = new LiveConfig(parseProxyConfig({}));
  const applied: string[] = [];
  live.onChange(() => () => applied.push('first'));
  live.onChange(() => {
    throw new ConfigError('upstreams.0.tls: no such file');
  });
  expect(() => live.replace(parseProxyConfig({ tagTtlMs: 7 }))).toThrow(/no such file/);
  expect([live.current.tagTtlMs, applied]).toEqual([60_000, []]);
});
