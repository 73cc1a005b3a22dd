import { once } from 'node:events';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { PassThrough, Readable } from 'node:stream';
import { setImmediate as turn } from 'node:timers/promises';
import { request } from 'undici';
import { expect, test } from 'vitest';
import { batchesOf } from './body-batches.ts';

async function all(batches: AsyncIterable<readonly Buffer[]>): Promise<Buffer> {
  const pieces: Buffer[] = [];
  for await (const batch of batches) pieces.push(...batch);
  return Buffer.concat(pieces);
}

test('all bytes come, in order', async () => {
  const pieces = Array.from({ length: 1000 }, (_, index) => Buffer.from(`piece ${index};`));
  expect(await all(batchesOf(Readable.from(pieces)))).toEqual(Buffer.concat(pieces));
});

test('what came before a failure is there, then the failure', async () => {
  const body = new PassThrough();
  const batches = batchesOf(body);
  body.write('before');
  const { value } = await batches.next();
  expect(String(value?.[0])).toBe('before');
  body.write('and this');
  await turn();
  body.destroy(new Error('cut'));
  expect(String((await batches.next()).value?.[0])).toBe('and this');
  await expect(batches.next()).rejects.toThrow('cut');
});

test('a body that is closed early has not ended', async () => {
  const body = new PassThrough();
  const batches = batchesOf(body);
  const next = batches.next();
  body.destroy();
  await expect(next).rejects.toThrow('closed before the end');
});

test.each([new Error('cut'), undefined])(
  'a body that was closed before anybody read it has not ended',
  async (error) => {
    const body = new PassThrough().on('error', () => {});
    body.destroy(error);
    await new Promise((resolve) => body.once('close', resolve));
    await expect(batchesOf(body).next()).rejects.toThrow(error?.message ?? 'closed before the end');
  },
);

test('whoever stops reading ends the body', async () => {
  const body = new PassThrough();
  const batches = batchesOf(body);
  body.write('one');
  await batches.next();
  await batches.return();
  expect(body.destroyed).toBe(true);
});

test('a reader that is busy does not have the whole body wait in memory', async () => {
  const sizeBytes = 64 * 1024 * 1024;
  const server = createServer((_request, response) => {
    response.end(Buffer.alloc(sizeBytes));
  }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { body } = await request(`http://127.0.0.1:${(server.address() as AddressInfo).port}/`);
  let largest = 0;
  let total = 0;
  for await (const batch of batchesOf(body)) {
    const bytes = batch.reduce((sum, piece) => sum + piece.length, 0);
    largest = Math.max(largest, bytes);
    total += bytes;
    for (let pause = 0; pause < 20; pause++) await turn();
  }
  expect(total).toBe(sizeBytes);
  expect(largest).toBeLessThan(3 * 1024 * 1024);
  server.close();
});
