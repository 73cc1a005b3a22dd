import { randomUUID } from 'node:crypto';
import type { HttpBindings } from '@hono/node-server';
// To be loaded before serve() is called: it replaces the class of responses.
import { RESPONSE_ALREADY_SENT } from '@hono/node-server/utils/response';
import { Hono } from 'hono';
import type { Logger } from 'pino';
import {
  type Answer,
  bufferAnswer,
  ClientGoneError,
  RequestNotes,
  type ServedRequest,
  writeAnswer,
} from './answer.ts';
import { onConnectionEnd } from './connection-end.ts';
import type { ErrorAnswerer } from './error-answer.ts';
import { unknownCode } from './paths.ts';
import { RequestBody } from './request-body.ts';
import { RequestError } from './request-error.ts';
import { readTarget, refuseDotSegments } from './request-target.ts';

export const READING: readonly string[] = ['GET', 'HEAD'];

/** One path of a listener, and what it leads to. */
export interface Route {
  /** `/healthz`, `/v2/*`, `/dadi/v1/conversions/:digest`. */
  readonly path: string;
  /** The others are answered 405. */
  readonly methods: readonly string[];
  /** What log and metrics call it; the handler may say it more exactly ({@link RequestNotes}). */
  readonly kind: string;
  /** Of the line for each request, `info` if left out: what is asked all the time would fill the log. */
  readonly logLevel?: 'debug';
  /** May throw: the error becomes the spec's JSON. `parameters` are the path's parts with a colon, decoded. */
  handle(request: ServedRequest, parameters: Readonly<Record<string, string>>): Answer | Promise<Answer>;
}

/** A request that is over. */
export interface EndedRequest {
  readonly method: string;
  /** Null if no headers were sent. */
  readonly status: number | null;
  /** Bytes that went out on the connection, headers included. */
  readonly sentBytes: number;
  readonly durationMs: number;
  readonly notes: Readonly<RequestNotes>;
}

interface HttpSideParts {
  readonly log: Logger;
  readonly onEnd: (request: EndedRequest) => void;
  readonly errorAnswer: ErrorAnswerer;
  /** Throws for a request that is not to be looked at; left out, all are. */
  readonly refuse?: (request: ServedRequest) => void;
}

/** One listener's HTTP side: routing, headers that all answers have, errors, and one log line a request. */
export class HttpSide {
  readonly fetch: Hono<{ Bindings: HttpBindings }>['fetch'];
  readonly #log: Logger;
  readonly #onEnd: (request: EndedRequest) => void;
  readonly #errorAnswer: ErrorAnswerer;
  readonly #refuse: (request: ServedRequest) => void;
  readonly #running = new Set<Promise<void>>();

  constructor(routes: readonly Route[], { log, onEnd, errorAnswer, refuse = () => {} }: HttpSideParts) {
    this.#log = log;
    this.#onEnd = onEnd;
    this.#errorAnswer = errorAnswer;
    this.#refuse = refuse;
    const app = new Hono<{ Bindings: HttpBindings }>();
    for (const route of [...routes, ELSEWHERE]) {
      app.all(route.path, async ({ env, req }) => {
        const work = this.#answer(env, route, req.param()).finally(() => this.#running.delete(work));
        this.#running.add(work);
        await work;
        return RESPONSE_ALREADY_SENT;
      });
    }
    this.fetch = app.fetch;
  }

  /** Resolves when no request is being answered. */
  async idle(): Promise<void> {
    await Promise.all(this.#running);
  }

  async #answer(
    { incoming, outgoing }: HttpBindings,
    route: Route,
    parameters: Record<string, string>,
  ): Promise<void> {
    const { method = 'GET', url = '/', headers, socket } = incoming;
    const id = requestId(headers['x-request-id']);
    const log = this.#log.child({ request: id });
    const notes = new RequestNotes(route.kind);
    const startedMs = performance.now();
    const bytesBefore = socket.bytesWritten;
    const gone = new AbortController();
    let isClosed = false;
    const onClose = () => {
      if (isClosed) return;
      isClosed = true;
      takeBack();
      if (!outgoing.writableFinished) gone.abort(new ClientGoneError('the client is gone'));
      const status = outgoing.headersSent ? outgoing.statusCode : null;
      const sentBytes = socket.bytesWritten - bytesBefore;
      const durationMs = performance.now() - startedMs;
      this.#onEnd({ method, status, sentBytes, durationMs, notes });
      log[route.logLevel ?? 'info']({
        method,
        path: loggedPath(url),
        ...notes,
        status,
        bytes: sentBytes,
        ms: Math.round(durationMs),
        ...(outgoing.writableFinished ? {} : { broken: true }),
      });
    };
    outgoing.once('close', onClose);
    // After the listener's time-out. An answer that waits for upstream is no fault of the client's.
    outgoing.on('timeout', () => {
      if (socket.writableLength > 0) socket.destroy();
    });
    // In Node 22 an answer that waits behind others on its connection hears nothing of the connection's end.
    const takeBack = onConnectionEnd(socket, onClose);
    const body = new RequestBody(incoming);
    const request = { method, ...readTarget(url), headers, body, signal: gone.signal, notes };
    const answer = await this.#settle(route, request, parameters, log);
    const common = { ...commonHeaders(request), 'x-request-id': id, ...(body.isLeft ? CLOSE : {}) };
    try {
      await writeAnswer(outgoing, { ...answer, headers: { ...answer.headers, ...common } }, request);
    } catch (error) {
      if (gone.signal.aborted || error instanceof ClientGoneError) return;
      log.warn({ err: error }, 'an answer broke off: the connection is destroyed');
    }
  }

  /** The handler's answer, or the one for its error. */
  async #settle(
    route: Route,
    request: ServedRequest,
    parameters: Record<string, string>,
    log: Logger,
  ): Promise<Answer> {
    try {
      this.#refuse(request);
      refuseDotSegments(request.pathname);
      if (!route.methods.includes(request.method)) throw notServed(request, route.methods);
      if (!READING.includes(request.method)) refuseOtherSites(request);
      return await route.handle(request, parameters);
    } catch (error) {
      const { status, headers, body, isFault } = this.#errorAnswer(error, unknownCode(request.pathname));
      if (isFault && !request.signal.aborted)
        log.warn({ err: error, path: request.pathname }, 'request failed');
      return bufferAnswer(status, Buffer.from(body), { 'content-type': 'application/json', ...headers });
    }
  }
}

/** What is left of a body on the connection must not be taken for the next request. */
const CLOSE = { connection: 'close' };

const ELSEWHERE: Route = {
  path: '*',
  methods: ['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS'],
  kind: 'other',
  handle: ({ pathname }) => {
    throw new RequestError('NAME_UNKNOWN', `${pathname} is not served here`);
  },
};

/** The caller's name for the request, if it is one that can stand in logs and headers; else one of ours. */
function requestId(given: string | string[] | undefined): string {
  return typeof given === 'string' && /^[\w.:+/=-]{1,128}$/.test(given) ? given : randomUUID();
}

/** Parameters that say what was asked for. The values of all others may be secrets. */
const LOGGED_PARAMETERS: ReadonlySet<string> = new Set([
  'ns',
  'n',
  'last',
  'artifactType',
  'state',
  'repository',
  'reference',
  'blob',
  'image',
  'platform',
  'wait',
]);
const MAX_LOGGED_PATH_CHARS = 1024;

function loggedPath(url: string): string {
  const [path = '', ...query] = url.split('?');
  const parameters = query.join('?').split('&').filter(Boolean);
  const shown = parameters.map((parameter) => {
    const [name = '', value] = parameter.split('=', 2);
    return value === undefined || LOGGED_PARAMETERS.has(name) ? parameter : `${name}=(hidden)`;
  });
  // An absolute URL may hold a password.
  const plain = path.replace(/^([a-z]+:\/\/)[^/]*@/i, '$1');
  return (shown.length === 0 ? plain : `${plain}?${shown.join('&')}`).slice(0, MAX_LOGGED_PATH_CHARS);
}

/** A page of another site must not have a browser change something here. Programs send no origin. */
function refuseOtherSites({ headers }: ServedRequest): void {
  const { origin, host } = headers;
  if (origin === undefined || (URL.canParse(origin) && new URL(origin).host === host)) return;
  throw new RequestError('DENIED', 'a page of another site may not do this');
}

function notServed({ method, pathname }: ServedRequest, methods: readonly string[]): RequestError {
  const hint = pathname.startsWith('/v2') ? ': this is a mirror, push to the registry it mirrors' : '';
  const headers = { allow: methods.join(', ') };
  return new RequestError('UNSUPPORTED', `${method} is not served${hint}`, { headers });
}

function commonHeaders({ pathname, query }: ServedRequest): Record<string, string> {
  if (!pathname.startsWith('/v2')) return {};
  const namespace = query.get('ns');
  return {
    'docker-distribution-api-version': 'registry/2.0',
    // distribution-spec, "Registry Proxying"
    ...(namespace === null || !/^[\w.:[\]-]+$/.test(namespace) ? {} : { 'oci-namespace': namespace }),
  };
}
