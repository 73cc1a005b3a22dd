import { createServer, request, type Server } from 'node:http';
import { json } from 'node:stream/consumers';
import { z } from 'zod';
import { ClientError, type ClientErrorCode } from '../errors.ts';

const statsSchema = z.object({
  /** Requests for blob bytes, retries of a wrong chunk included. */
  requests: z.number(),
  chunksFetched: z.number(),
  /** Bytes that came from the network, right or not. */
  bytesFetched: z.number(),
  cacheHits: z.number(),
  /** Blob bytes that the device was read from. */
  bytesRead: z.number(),
  /** All blobs of the image together. */
  imageBytes: z.number(),
  deviceBytes: z.number(),
  /** Of the device's NBD socket; the mount itself needs none. */
  clients: z.number(),
  uptimeMs: z.number(),
});

/** What a mount cost so far. */
export type MountStats = z.infer<typeof statsSchema>;

const stopSchema = z.object({ lazy: z.boolean() });
const failureSchema = z.object({ code: z.string(), message: z.string() });

const STATS_TIMEOUT_MS = 5_000;
/** Longer than all time-outs of detaching together. */
const STOP_TIMEOUT_MS = 60_000;

export interface ControlHandler {
  stats(): MountStats;
  /** Resolves when the directory is free. */
  stop(options: { readonly lazy: boolean }): Promise<MountStats>;
}

/** The running mount's own HTTP endpoint: GET /stats, POST /stop with `{"lazy": boolean}`. */
export async function serveControl(socketPath: string, handler: ControlHandler): Promise<Server> {
  const server = createServer((incoming, outgoing) => {
    const answer = (status: number, body: unknown) => {
      outgoing.writeHead(status, { 'content-type': 'application/json', connection: 'close' });
      outgoing.end(JSON.stringify(body));
    };
    if (incoming.method === 'GET' && incoming.url === '/stats') return answer(200, handler.stats());
    if (incoming.method !== 'POST' || incoming.url !== '/stop') {
      return answer(404, { code: 'ERR_NOT_FOUND', message: 'there is GET /stats and POST /stop' });
    }
    json(incoming)
      .then((body) => handler.stop(stopSchema.parse(body)))
      .then((stats) => answer(200, stats))
      .catch((error) => answer(409, { code: error.code ?? 'ERR_MOUNT_DAEMON', message: error.message }));
  });
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(socketPath, resolve);
  });
  return server;
}

/** @throws ClientError ERR_MOUNT_DAEMON if the mount's process does not answer */
export function requestStats(socketPath: string): Promise<MountStats> {
  return call(socketPath, 'GET', '/stats', null, STATS_TIMEOUT_MS);
}

/** @throws ClientError as the mount's process gives it: ERR_MOUNT_BUSY, ERR_DETACH_FAILED; ERR_MOUNT_DAEMON */
export function requestStop(socketPath: string, options: { readonly lazy: boolean }): Promise<MountStats> {
  return call(socketPath, 'POST', '/stop', JSON.stringify(options), STOP_TIMEOUT_MS);
}

async function call(
  socketPath: string,
  method: string,
  path: string,
  body: string | null,
  timeoutMs: number,
): Promise<MountStats> {
  let status: number | undefined;
  let answer: unknown;
  try {
    ({ status, answer } = await exchange(socketPath, method, path, body, timeoutMs));
  } catch (cause) {
    throw new ClientError('ERR_MOUNT_DAEMON', 'the process that holds the mount does not answer', { cause });
  }
  if (status === 200) return statsSchema.parse(answer);
  const { code, message } = failureSchema.parse(answer);
  throw new ClientError(isPassedOn(code) ? code : 'ERR_MOUNT_DAEMON', message);
}

function isPassedOn(code: string): code is ClientErrorCode {
  return code === 'ERR_MOUNT_BUSY' || code === 'ERR_DETACH_FAILED';
}

function exchange(
  socketPath: string,
  method: string,
  path: string,
  body: string | null,
  timeoutMs: number,
): Promise<{ status: number | undefined; answer: unknown }> {
  return new Promise((resolve, reject) => {
    const signal = AbortSignal.timeout(timeoutMs);
    const outgoing = request({ socketPath, method, path, signal, headers: { host: 'dadi' } }, (incoming) => {
      json(incoming).then((answer) => resolve({ status: incoming.statusCode, answer }), reject);
    });
    outgoing.once('error', reject);
    outgoing.end(body ?? undefined);
  });
}
