import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { pino } from 'pino';
import { afterEach, expect, test, vi } from 'vitest';
import type { StreamedBody } from './answer.ts';
import { HttpSide, READING, type Route } from './http-side.ts';
import { Listener } from './listener.ts';
import { writePiece } from './stream.ts';

const WAIT = { timeout: 30_000, interval: 5 };
const PIECE = Buffer.alloc(64 * 1024, 1);
const [INFO, WARNING] = [30, 40];

let listener: Listener;

afterEach(() => listener.close(0));

/** Answers what is asked with this body. @returns what is logged, as it comes */
async function serve(body: StreamedBody | null): Promise<Record<string, unknown>[]> {
  const logged: Record<string, unknown>[] = [];
  const write = (line: string) => void logged.push(JSON.parse(line));
  const route = { methods: READING, kind: 'test', handle: () => ({ status: 200, headers: {}, body }) };
  const routes: Route[] = [
    { ...route, path: '/' },
    { ...route, path: '/often', logLevel: 'debug' },
  ];
  const http = new HttpSide(routes, {
    log: pino({ level: 'info' }, { write }),
    onEnd: () => {},
    errorAnswer: (error) => ({ status: 500, headers: {}, body: String(error), isFault: true }),
  });
  const limits = { tls: null, max: 10, requestTimeoutMs: 30_000, stalledClientMs: 30_000 };
  listener = await Listener.open(http, { host: '127.0.0.1', port: 0 }, limits);
  return logged;
}

/** A client that has got the headers. */
async function ask(): Promise<Socket> {
  const socket = connect(listener.address.port, '127.0.0.1');
  socket.on('error', () => {});
  socket.write('GET / HTTP/1.1\r\nHost: here\r\n\r\n');
  await once(socket, 'data');
  return socket;
}

/** Writes when it is told to, for as long as that can be done. */
function endless(begin: Promise<void>, prepare: () => void = () => {}): StreamedBody {
  return {
    send: async (outgoing) => {
      outgoing.write('the first piece');
      await begin;
      prepare();
      for (;;) await writePiece(outgoing, PIECE);
    },
    close: async () => {},
  };
}

test('a client that resets its connection is no warning, though writing fails before its end is told', async () => {
  const begin = Promise.withResolvers<void>();
  const logged = await serve(endless(begin.promise));
  const client = await ask();
  client.once('close', () => begin.resolve());
  client.resetAndDestroy();
  await vi.waitFor(() => expect(logged).toHaveLength(1), WAIT);
  expect(logged[0]).toMatchObject({ level: INFO, status: 200, broken: true });
});

test('a body that fails is a warning, and the client sees that it has not all', async () => {
  const begin = Promise.withResolvers<void>();
  const fails = () => {
    throw new Error('the disk is gone');
  };
  const logged = await serve(endless(begin.promise, fails));
  const client = await ask();
  const end = once(client, 'close');
  begin.resolve();
  await end;
  await vi.waitFor(() => expect(logged).toHaveLength(2), WAIT);
  const warning = logged.find(({ level }) => level === WARNING);
  expect(warning).toMatchObject({ err: { message: 'the disk is gone' } });
});

test('what is asked all the time leaves no line in the log of each time', async () => {
  const logged = await serve(null);
  const url = `http://127.0.0.1:${listener.address.port}`;
  for (const path of ['/often', '/often', '/']) expect((await fetch(`${url}${path}`)).status).toBe(200);
  await vi.waitFor(() => expect(logged).not.toHaveLength(0), WAIT);
  expect(logged).toMatchObject([{ level: INFO, path: '/' }]);
});
