import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { request } from 'node:http';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { freePort } from '../../../test/support/processes.ts';
import { askDaemon } from './admin-client.ts';
import { type AdminHandler, AdminServer } from './admin-server.ts';

test('a stop waits neither for who only holds a connection, nor for an answer that does not come', async () => {
  const directory = mkdtempSync(join(tmpdir(), 'dad-'));
  const socket = join(directory, 'node.sock');
  const asked = Promise.withResolvers<void>();
  const nothing = async () => {
    asked.resolve();
    return new Promise<never>(() => {});
  };
  const handler: AdminHandler = {
    ...{ status: nothing, metrics: nothing, stop: nothing, cacheEntries: nothing, trimCache: nothing },
    readiness: () => ({ isReady: true, checks: [] }),
  };
  const server = await AdminServer.start(handler, { socket, listen: null });
  const half = connect(socket).resume();
  await once(half, 'connect');
  half.write('GET /status HTTP/1.1\r\nhost:');
  const cut = once(half, 'close');
  const asking = expect(askDaemon(socket, 'GET', '/status')).rejects.toThrow('cannot ask the daemon');
  await asked.promise;
  await server.close();
  await Promise.all([cut, asking]);
  rmSync(directory, { recursive: true });
});

test('to look by TCP, it has to be asked by its address: no page of a browser reads which images there are', async () => {
  const directory = mkdtempSync(join(tmpdir(), 'dad-'));
  const none = async () => Promise.reject(new Error('not asked for'));
  const handler: AdminHandler = {
    ...{ status: none, stop: none, cacheEntries: none, trimCache: none },
    metrics: async () => ({ contentType: 'text/plain', text: 'metrics' }),
    readiness: () => ({ isReady: true, checks: [] }),
  };
  const port = await freePort();
  const listen = { host: '127.0.0.1', port };
  const server = await AdminServer.start(handler, { socket: join(directory, 'node.sock'), listen });
  for (const [host, path, status] of [
    ['evil.example', '/status', 403],
    ['evil.example', '/metrics', 200],
    ['127.0.0.1', '/status', 409],
    ['localhost', '/readyz', 200],
  ] as const) {
    const headers = { host: `${host}:${port}` };
    const [answer] = await once(request({ port, path, headers, host: '127.0.0.1' }).end(), 'response');
    expect(answer.resume().statusCode, `${path} at ${host}`).toBe(status);
  }
  await server.close();
  rmSync(directory, { recursive: true });
});
