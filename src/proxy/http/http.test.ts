import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { text } from 'node:stream/consumers';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { FakeRegistry } from '../../../test/support/fake-registry.ts';
import { bytesOf, TestProxy } from '../../../test/support/test-proxy.ts';

let upstream: FakeRegistry;
let proxy: TestProxy;

beforeEach(async () => {
  upstream = await FakeRegistry.start();
  proxy = await TestProxy.start({
    upstreams: [{ name: 'reg.example', url: upstream.url }],
    conversion: { enabled: false },
  });
});

afterEach(async () => {
  await proxy.remove();
  await upstream.stop();
});

async function open(): Promise<Socket> {
  const socket = connect(Number(new URL(proxy.url).port), '127.0.0.1');
  await once(socket, 'connect');
  return socket;
}

const request = (target: string, more = '') => `GET ${target} HTTP/1.1\r\nHost: proxy\r\n${more}\r\n`;

test('answers that wait behind another on their connection end with it', async () => {
  const bytes = randomBytes(16 * 1024 * 1024);
  const path = `/v2/lib/a/blobs/${upstream.putBlob(bytes)}`;
  await bytesOf(await proxy.fetch(path));
  proxy.logged.length = 0;
  const socket = await open();
  socket.pause();
  socket.write(request(path).repeat(3));
  await sleep(300);
  socket.destroy();
  await vi.waitFor(
    () => expect(proxy.logged.filter((line) => line['broken'] === true)).toHaveLength(3),
    30_000,
  );
  const startedMs = performance.now();
  await proxy.stop();
  expect(performance.now() - startedMs).toBeLessThan(4_000);
});

test.each(['//', '//elsewhere/v2/', '/%', '/v2/%zz/tags/list'])('%s is not found', async (target) => {
  const socket = await open();
  socket.write(request(target, 'Connection: close\r\n'));
  expect(await text(socket)).toMatch(/^HTTP\/1\.1 40[04] /);
});
