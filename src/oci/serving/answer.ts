import type { IncomingHttpHeaders, ServerResponse } from 'node:http';
import type { RequestBody } from './request-body.ts';

/** Where the bytes of an answer came from. */
export type AnswerSource =
  /** Kept before. */
  | 'cache'
  /** On its way from upstream while it was sent, and kept. */
  | 'fill'
  /** From upstream for this answer alone. */
  | 'upstream'
  /** Made here. */
  | 'converted';

/** What a handler finds out about a request for log and metrics; written by it, read when the request is over. */
export class RequestNotes {
  kind: string;
  upstream: string | undefined;
  repository: string | undefined;
  /** Tag or digest. */
  reference: string | undefined;
  source: AnswerSource | undefined;

  constructor(kind: string) {
    this.kind = kind;
  }
}

/** A request as far as handlers look at it. */
export interface ServedRequest {
  readonly method: string;
  readonly pathname: string;
  readonly query: URLSearchParams;
  /** The query as it was sent, with its question mark; empty if there is none. */
  readonly search: string;
  readonly headers: IncomingHttpHeaders;
  readonly body: Pick<RequestBody, 'json'>;
  /** Fires when the client goes away, or the server has to end. */
  readonly signal: AbortSignal;
  readonly notes: RequestNotes;
}

/** A body that is written piece by piece, after the headers. */
export interface StreamedBody {
  /** Ends the response, or rejects: then the connection is destroyed. */
  send(outgoing: ServerResponse, signal: AbortSignal): Promise<void>;
  /** Called once, whether it was sent or not. */
  close(): Promise<void>;
}

export interface Answer {
  readonly status: number;
  readonly headers: Readonly<Record<string, string>>;
  /** Null only where no body belongs: the headers then say its length, if it has one. */
  readonly body: Buffer | StreamedBody | null;
}

export function jsonAnswer(value: unknown, headers: Readonly<Record<string, string>> = {}): Answer {
  return bufferAnswer(200, Buffer.from(JSON.stringify(value)), {
    'content-type': 'application/json',
    ...headers,
  });
}

export function bufferAnswer(
  status: number,
  body: Buffer,
  headers: Readonly<Record<string, string>>,
): Answer {
  return { status, headers: { ...headers, 'content-length': String(body.length) }, body };
}

/** An answer whose client went away before it had all of it. */
export class ClientGoneError extends Error {
  override readonly name = 'ClientGoneError';
  readonly code = 'ERR_CLIENT_GONE';
}

/**
 * Writes an answer out. When it rejects the connection is destroyed.
 * @throws ClientGoneError if the connection had failed by itself, whatever that made of the body; what a body rejects with
 */
export async function writeAnswer(
  outgoing: ServerResponse,
  { status, headers, body }: Answer,
  request: Pick<ServedRequest, 'method' | 'signal'>,
): Promise<void> {
  try {
    outgoing.writeHead(status, headers);
    if (request.method === 'HEAD' || body === null || Buffer.isBuffer(body)) {
      outgoing.end(request.method === 'HEAD' ? undefined : (body ?? undefined));
      return;
    }
    outgoing.flushHeaders();
    await body.send(outgoing, request.signal);
  } catch (error) {
    // What is written fails some time before the end of the connection is told of.
    const isGone = outgoing.req.socket.destroyed;
    outgoing.destroy();
    throw isGone ? new ClientGoneError('the client is gone', { cause: error }) : error;
  } finally {
    if (body !== null && !Buffer.isBuffer(body)) await body.close();
  }
}
