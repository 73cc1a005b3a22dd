import { request } from 'node:http';
import { text as readText } from 'node:stream/consumers';
import { z } from 'zod';
import { isSystemError } from '../../format/error-code.ts';
import { ClientError, type ClientErrorCode } from '../errors.ts';

const failureSchema = z.object({ code: z.string(), message: z.string() });

/** Detaching has time-outs of its own, one mount after the other. */
const TIMEOUT_MS = 10 * 60_000;

/**
 * Asks a running daemon on its socket: its JSON; null if no daemon answers there.
 * @throws ClientError as the daemon gives it: ERR_MOUNT_BUSY, ERR_DETACH_FAILED; else ERR_NODE_UNREACHABLE
 */
export async function askDaemon(
  socketPath: string,
  method: 'GET' | 'POST',
  path: string,
  body: object | null = null,
): Promise<unknown> {
  const answer = await exchange(socketPath, method, path, body);
  if (answer === null) return null;
  const content: unknown = JSON.parse(answer.text);
  if (answer.status < 300) return content;
  const { code, message } = failureSchema.parse(content);
  throw new ClientError(isPassedOn(code) ? code : 'ERR_NODE_UNREACHABLE', message);
}

function isPassedOn(code: string): code is ClientErrorCode {
  return code === 'ERR_MOUNT_BUSY' || code === 'ERR_DETACH_FAILED';
}

function exchange(
  socketPath: string,
  method: string,
  path: string,
  body: object | null,
): Promise<{ readonly status: number; readonly text: string } | null> {
  return new Promise((resolve, reject) => {
    const signal = AbortSignal.timeout(TIMEOUT_MS);
    const outgoing = request({ socketPath, method, path, signal, headers: { host: 'dadi' } }, (incoming) => {
      const status = incoming.statusCode ?? 0;
      readText(incoming).then((text) => resolve({ status, text }), reject);
    });
    outgoing.once('error', (error) => {
      // Nobody is there.
      if (isSystemError(error, 'ENOENT', 'ECONNREFUSED')) resolve(null);
      else
        reject(
          new ClientError('ERR_NODE_UNREACHABLE', `cannot ask the daemon at ${socketPath}`, { cause: error }),
        );
    });
    outgoing.end(body === null ? undefined : JSON.stringify(body));
  });
}
