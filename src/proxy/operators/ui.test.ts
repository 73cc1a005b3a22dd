import { createHash } from 'node:crypto';
import { Script } from 'node:vm';
import { expect, test } from 'vitest';
import { proxy, useProxiedRegistry } from '../../../test/support/proxied-registry.ts';

useProxiedRegistry();

const hashOf = (text: string) => `'sha256-${createHash('sha256').update(text).digest('base64')}'`;

test('the dashboard is one page whose policy lets nothing run but what stands in it', async () => {
  const response = await proxy.adminFetch('/ui');
  expect(response.headers.get('content-type')).toBe('text/html; charset=utf-8');
  const page = await response.text();
  const policy = response.headers.get('content-security-policy') ?? '';
  const scripts = [...page.matchAll(/<script>(.*?)<\/script>/gs)].map(([, text]) => text!);
  const styles = [...page.matchAll(/<style>(.*?)<\/style>/gs)].map(([, text]) => text!);
  expect([scripts.length, styles.length]).toEqual([1, 1]);
  expect(policy).toContain("default-src 'none'");
  expect(policy).toContain(`script-src ${hashOf(scripts[0]!)}`);
  expect(policy).toContain(`style-src ${hashOf(styles[0]!)}`);
  expect(policy).not.toContain('unsafe');
  expect(page).not.toMatch(/\b(src|href|on\w+)=|https?:\/\//);
  expect(() => new Script(scripts[0]!)).not.toThrow();
  expect(scripts[0]).not.toMatch(/innerHTML|insertAdjacentHTML|document\.write|eval\(/);
});

test('what the page fills in is there, and what it asks for is answered', async () => {
  const page = await (await proxy.adminFetch('/ui')).text();
  const ids = [...page.matchAll(/ id="(\w+)"/g)].map(([, id]) => id);
  for (const [, id] of page.matchAll(/(?:show|fill|getElementById)\('(\w+)'/g)) expect(ids).toContain(id);
  const paths = [...page.matchAll(/get\('([^']+)'\)/g)].map(([, path]) => path);
  expect(paths).toHaveLength(3);
  for (const path of paths) expect((await proxy.adminFetch(`/${path}`)).status, path).toBe(200);
});
