import { once } from 'node:events';
import { createServer as createHttpServer, type RequestListener } from 'node:http';
import { type AddressInfo, createServer, type Server } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, expect, test, vi } from 'vitest';
import { CHUNK_BYTES, chunkedBlob } from '../../../test/support/chunked-blob.ts';
import { contentOf } from '../../../test/support/mesh-host.ts';
import type { Peer } from '../mesh-protocol.ts';
import { HttpPeerTransport } from './http-peer-transport.ts';

const BLOB = chunkedBlob(4, 3);
const SHORT = { ...BLOB, table: { ...BLOB.table, blobSize: BLOB.bytes.length - 100 } };
const transport = new HttpPeerTransport(null);
const servers: Server[] = [];

afterEach(async () => {
  await transport.close();
  for (const server of servers.splice(0)) server.close();
});

async function peer(server: Server): Promise<Peer> {
  servers.push(server);
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return { id: '1'.repeat(32), address: `127.0.0.1:${(server.address() as AddressInfo).port}` };
}

function http(answer: RequestListener): Promise<Peer> {
  return peer(createHttpServer(answer));
}

interface Heard {
  isFound: boolean;
  readonly chunks: [number, Buffer][];
}

/** Asks for chunks 1 and 2. */
async function ask(
  from: Peer,
  { signal = new AbortController().signal, blob = BLOB, first = 1, onLast = () => {} } = {},
): Promise<Heard & { error: unknown }> {
  const heard: Heard = { isFound: false, chunks: [] };
  const { chunkSize, blobSize } = blob.table;
  const request = {
    table: contentOf(BLOB).table,
    sizes: { chunkSize, blobSize },
    ticket: 'T',
    first,
    count: 2,
  };
  const on = {
    found: () => {
      heard.isFound = true;
    },
    deliver: (index: number, bytes: Buffer) => {
      heard.chunks.push([index, bytes]);
      if (index === first + 1) onLast();
    },
  };
  const error = await transport.chunks(from, request, on, signal).then(
    () => null,
    (reason: unknown) => reason,
  );
  return { ...heard, error };
}

const bytesOf = (first: number, end: number) => BLOB.bytes.subarray(first * CHUNK_BYTES, end * CHUNK_BYTES);

test('an answer is cut into chunks, wherever its pieces end', async () => {
  const from = await http(async (request, response) => {
    expect(request.url).toMatch(/\/chunks\/sha256:[0-9a-f]{64}\?first=1&count=2$/);
    expect(request.headers.authorization).toBe('Dadi-Ticket T');
    for (const piece of [10, CHUNK_BYTES, 2 * CHUNK_BYTES]) {
      const sent = piece === 10 ? 0 : piece === CHUNK_BYTES ? 10 : CHUNK_BYTES;
      await new Promise((resolve) => response.write(bytesOf(1, 3).subarray(sent, piece), resolve));
    }
    response.end();
  });
  const { isFound, chunks, error } = await ask(from);
  expect([isFound, error]).toEqual([true, null]);
  expect(chunks).toEqual([
    [1, bytesOf(1, 2)],
    [2, bytesOf(2, 3)],
  ]);
});

test("the blob's last chunk is as long as the blob says", async () => {
  const from = await http((_, response) => response.end(bytesOf(2, 4).subarray(0, -100)));
  const { chunks, error } = await ask(from, { blob: SHORT, first: 2 });
  expect(error).toBeNull();
  expect(chunks.map(([, bytes]) => bytes.length)).toEqual([CHUNK_BYTES, CHUNK_BYTES - 100]);
});

test.each<[string, string, number, RequestListener]>([
  ['more than was asked for', 'ERR_PEER_ANSWER', 2, (_, response) => response.end(bytesOf(1, 4))],
  ['one byte too little', 'ERR_PEER_ANSWER', 1, (_, response) => response.end(bytesOf(1, 3).subarray(1))],
  ['whole chunks, but not all', 'ERR_PEER_INCOMPLETE', 1, (_, response) => response.end(bytesOf(1, 2))],
  ['nothing', 'ERR_PEER_INCOMPLETE', 0, (_, response) => response.end()],
  [
    'an answer that breaks off',
    'ERR_PEER_UNREACHABLE',
    1,
    (_, response) => response.write(bytesOf(1, 2), () => setImmediate(() => response.destroy())),
  ],
  ['401', 'ERR_PEER_TICKET', 0, (_, response) => response.writeHead(401).end()],
  ['404', 'ERR_PEER_UNKNOWN_CONTENT', 0, (_, response) => response.writeHead(404).end()],
  ['a redirect', 'ERR_PEER_ANSWER', 0, (_, response) => response.writeHead(302, { location: '/' }).end()],
  ['500', 'ERR_PEER_UNREACHABLE', 0, (_, response) => response.writeHead(500).end()],
  [
    'a refusal without end',
    'ERR_PEER_ANSWER',
    0,
    (_, response) => {
      response.writeHead(503);
      response.write(Buffer.alloc(64 * 1024));
    },
  ],
])('%s: %s', async (_name, code, chunks, answer) => {
  const heard = await ask(await http(answer));
  expect(heard.error).toMatchObject({ code });
  expect(heard.chunks.length).toBe(chunks);
});

test('a peer that is busy names others', async () => {
  const others = [{ id: '2'.repeat(32), address: '10.0.0.2:6011' }];
  const from = await http((_, response) =>
    response.writeHead(503).end(JSON.stringify({ alternates: others })),
  );
  expect((await ask(from)).error).toMatchObject({ code: 'ERR_PEER_BUSY', alternates: others });
});

test('what a busy peer says that is no list of hosts is not looked at', async () => {
  const others = [{ id: '2'.repeat(32), address: 'user@10.0.0.2:80/path' }];
  const from = await http((_, response) =>
    response.writeHead(503).end(JSON.stringify({ alternates: others })),
  );
  expect((await ask(from)).error).toMatchObject({ code: 'ERR_PEER_BUSY', alternates: [] });
});

test('who has all chunks may go before the answer ends, and the next request takes the same connection', async () => {
  let connections = 0;
  let sent = 0;
  const server = createHttpServer((_request, response) => {
    response.on('finish', () => sent++);
    response.write(BLOB.bytes.subarray(CHUNK_BYTES, 3 * CHUNK_BYTES));
    // The end takes a while.
    setTimeout(() => response.end(), 200);
  });
  server.on('connection', () => {
    connections++;
  });
  const from = await peer(server);
  for (let round = 0; round < 3; round++) {
    const leaving = new AbortController();
    const heard = await ask(from, { signal: leaving.signal, onLast: () => leaving.abort() });
    expect(heard.error).toBeNull();
    expect(heard.chunks.map(([index]) => index)).toEqual([1, 2]);
    await vi.waitFor(() => expect(sent).toBe(round + 1), { timeout: 30_000 });
    // On its way through this very process.
    await sleep(300);
  }
  expect(connections).toBe(1);
});

test('a peer that sends on to who has gone is cut off', async () => {
  const closed = Promise.withResolvers<void>();
  const from = await http((request, response) => {
    request.socket.once('close', () => closed.resolve());
    response.write(BLOB.bytes.subarray(CHUNK_BYTES, 3 * CHUNK_BYTES));
    setTimeout(() => response.write('more'), 50);
  });
  const leaving = new AbortController();
  const heard = await ask(from, { signal: leaving.signal, onLast: () => leaving.abort() });
  expect(heard.error).toBeNull();
  await closed.promise;
});

test('what speaks no HTTP, or nobody, is unreachable', async () => {
  const odd = await peer(createServer((socket) => socket.end('hello\r\n\r\n')));
  expect((await ask(odd)).error).toMatchObject({ code: 'ERR_PEER_UNREACHABLE' });
  servers.pop()!.close();
  expect((await ask(odd)).error).toMatchObject({ code: 'ERR_PEER_UNREACHABLE' });
});

test('who is asked no more is let go: before the answer, and in the middle of it', async () => {
  for (const begins of [false, true]) {
    const closed = Promise.withResolvers<void>();
    const asked = new AbortController();
    const from = await http((_, response) => {
      response.on('close', () => closed.resolve());
      if (begins) response.write(bytesOf(1, 2));
      setImmediate(() => asked.abort(new Error('not any more')));
    });
    expect((await ask(from, { signal: asked.signal })).error).toMatchObject({ message: 'not any more' });
    await closed.promise;
  }
});
