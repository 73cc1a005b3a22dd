import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
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
