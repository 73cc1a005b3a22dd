import { randomUUID } from 'node:crypto';
import type { HttpBindings } from '@hono/node-server';
// To be loaded before serve() is called: it replaces the class of responses.
import { RESPONSE_ALREADY_SENT } from '@hono/node-server/utils/response';
import { type Context, Hono } from 'hono';
import type { Logger } from 'pino';
import { type Answer, bufferAnswer, jsonAnswer, type ProxyRequest, writeAnswer } from './answer.ts';
import { errorAnswer, RequestError } from './errors.ts';
import { decodePath } from './paths.ts';

const READING: readonly string[] = ['GET', 'HEAD'];

/** What the server's paths lead to. Each may reject: the error becomes the spec's JSON. */
export interface Routes {
  /** All below `/v2/`. */
  distribution(request: ProxyRequest): Promise<Answer>;
  conversions(query: URLSearchParams): Answer;
  conversion(digest: string): Answer;
  /** Asked for by POST: the only route that changes anything. */
  retry(digest: string): Answer;
}

type Handler = (request: ProxyRequest) => Answer | Promise<Answer>;

/** The proxy's HTTP side: routing, headers that all answers have, errors, and one log line a request. */
export class HttpSide {
  readonly fetch: Hono<{ Bindings: HttpBindings }>['fetch'];
  readonly #log: Logger;
  readonly #running = new Set<Promise<void>>();

  constructor(routes: Routes, log: Logger) {
    this.#log = log;
    const app = new Hono<{ Bindings: HttpBindings }>();
    const at = (path: string, handler: Handler, methods = READING) =>
      app.all(path, async (context) =>
        this.#handle(context, (request) => {
          if (!methods.includes(request.method)) throw notServed(request, methods);
          return handler(request);
        }),
      );
    at('/v2', routes.distribution);
    at('/v2/*', routes.distribution);
    at('/dadi/v1/conversions', ({ query }) => routes.conversions(query));
    at('/dadi/v1/conversions/:digest', ({ pathname }) =>
      routes.conversion(decodePath(pathname).split('/').at(-1) ?? ''),
    );
    at(
      '/dadi/v1/conversions/:digest/retry',
      ({ pathname }) => routes.retry(decodePath(pathname).split('/').at(-2) ?? ''),
      ['POST'],
    );
    at('/healthz', () => jsonAnswer({ status: 'ok' }));
    at('*', ({ pathname }) => {
      throw new RequestError('NAME_UNKNOWN', `${pathname} is not served here`);
    });
    this.fetch = app.fetch;
  }

  /** Resolves when no request is being answered. */
  async idle(): Promise<void> {
    await Promise.all(this.#running);
  }

  async #handle({ env }: Context<{ Bindings: HttpBindings }>, handler: Handler): Promise<Response> {
    const work = this.#answer(env, handler).finally(() => this.#running.delete(work));
    this.#running.add(work);
    await work;
    return RESPONSE_ALREADY_SENT;
  }

  async #answer({ incoming, outgoing }: HttpBindings, handler: Handler): Promise<void> {
    const log = this.#log.child({ request: randomUUID() });
    const { method = 'GET', url = '/', headers, socket } = incoming;
    const startedMs = performance.now();
    const bytesBefore = socket.bytesWritten;
    const gone = new AbortController();
    let isClosed = false;
    const onClose = () => {
      if (isClosed) return;
      isClosed = true;
      socket.off('close', onClose);
      if (!outgoing.writableFinished) gone.abort(new Error('the client is gone'));
      log.info({
        method,
        path: url,
        status: outgoing.headersSent ? outgoing.statusCode : null,
        bytes: socket.bytesWritten - bytesBefore,
        ms: Math.round(performance.now() - startedMs),
        ...(outgoing.writableFinished ? {} : { broken: true }),
      });
    };
    outgoing.once('close', onClose);
    // In Node 22 an answer that waits behind others on its connection hears nothing of the connection's end.
    socket.once('close', onClose);
    const { pathname, searchParams: query } = new URL(url.startsWith('/') ? `http://proxy${url}` : url);
    const request = { method, pathname, query, headers, signal: gone.signal };
    const answer = await settle(handler, request, log);
    const common = commonHeaders(request);
    try {
      await writeAnswer(outgoing, { ...answer, headers: { ...answer.headers, ...common } }, request);
    } catch (error) {
      if (!gone.signal.aborted) log.warn({ err: error }, 'an answer broke off: the connection is destroyed');
    }
  }
}

/** The handler's answer, or the one for its error. */
async function settle(handler: Handler, request: ProxyRequest, log: Logger): Promise<Answer> {
  try {
    return await handler(request);
  } catch (error) {
    const isBlob = request.pathname.includes('/blobs/');
    const { status, headers, body, isFault } = errorAnswer(
      error,
      isBlob ? 'BLOB_UNKNOWN' : 'MANIFEST_UNKNOWN',
    );
    if (isFault && !request.signal.aborted)
      log.warn({ err: error, path: request.pathname }, 'request failed');
    return bufferAnswer(status, Buffer.from(body), { 'content-type': 'application/json', ...headers });
  }
}

function notServed({ method, pathname }: ProxyRequest, methods: readonly string[]): RequestError {
  const hint = pathname.startsWith('/v2') ? ': this is a mirror, push to the registry it mirrors' : '';
  const headers = { allow: methods.join(', ') };
  return new RequestError('UNSUPPORTED', `${method} is not served${hint}`, { headers });
}

function commonHeaders({ pathname, query }: ProxyRequest): Record<string, string> {
  if (!pathname.startsWith('/v2')) return {};
  const namespace = query.get('ns');
  return {
    'docker-distribution-api-version': 'registry/2.0',
    // distribution-spec, "Registry Proxying"
    ...(namespace === null || !/^[\w.:[\]-]+$/.test(namespace) ? {} : { 'oci-namespace': namespace }),
  };
}
