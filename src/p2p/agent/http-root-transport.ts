import { Agent, request } from 'undici';
import type { z } from 'zod';
import { readAtMost } from '../../oci/bounded-body.ts';
import { challengeOf } from '../../oci/registry-http.ts';
import { ownTlsOptions, type RegistryTls } from '../../oci/registry-tls.ts';
import {
  type Heartbeat,
  type HeartbeatAnswer,
  heartbeatAnswerSchema,
  type JoinAnswer,
  type JoinRequest,
  joinAnswerSchema,
  keysSchema,
  type Leave,
  type Lost,
  type Place,
  placeSchema,
  ROOT_PATH,
  type RootKeys,
} from '../mesh-protocol.ts';
import type { AuthorizeJoin, Where } from './mesh.ts';
import { RootError, type RootErrorCode, type RootTransport } from './root-transport.ts';

const CONNECT_MS = 1_000;
/** Whoever asks has less patience, as a rule. */
const SILENCE_MS = 30_000;
const KEEP_ALIVE_MS = 30_000;
const CONNECTIONS = 4;
/** A heartbeat's answer may hold 4096 places. */
const MAX_ANSWER_BYTES = 16 * 1024 * 1024;
const MAX_SHOWN_CHARS = 300;

interface Call {
  readonly method: 'GET' | 'POST';
  readonly path: string;
  readonly body?: unknown;
  readonly authorization?: string | null;
}

interface Reply {
  readonly status: number;
  readonly challenge: string | null;
  readonly body: Buffer;
}

/** Talks to roots by JSON over HTTP. */
export class HttpRootTransport implements RootTransport {
  readonly #authorize: AuthorizeJoin;
  readonly #secret: string;
  readonly #agent: Agent;

  /** @param secret of the member in whose name roots are asked */
  constructor(authorize: AuthorizeJoin, tls: RegistryTls | null, secret: string) {
    this.#authorize = authorize;
    this.#secret = secret;
    this.#agent = new Agent({
      connections: CONNECTIONS,
      allowH2: false,
      headersTimeout: SILENCE_MS,
      bodyTimeout: SILENCE_MS,
      keepAliveTimeout: KEEP_ALIVE_MS,
      connect: { timeout: CONNECT_MS, ...ownTlsOptions(tls) },
    });
  }

  async join(root: string, where: Where, request: JoinRequest, signal: AbortSignal): Promise<JoinAnswer> {
    const url = new URL(root);
    const body = { ...request, secret: this.#secret };
    const { repository, registry } = where;
    const path = `/join?${new URLSearchParams({ repository, ns: registry })}`;
    const send = async (challenge: string | null) => {
      const authorization = await this.#authorize(url, where, challenge, signal);
      return this.#send(root, { method: 'POST', path, body, authorization }, signal);
    };
    let reply = await send(null);
    if (reply.status === 401 && reply.challenge !== null) reply = await send(reply.challenge);
    return read(root, reply, joinAnswerSchema);
  }

  async heartbeat(
    root: string,
    session: string,
    body: Heartbeat,
    signal: AbortSignal,
  ): Promise<HeartbeatAnswer> {
    const reply = await this.#post(root, '/heartbeat', session, body, signal);
    return read(root, reply, heartbeatAnswerSchema);
  }

  async lost(root: string, session: string, body: Lost, signal: AbortSignal): Promise<Place> {
    return read(root, await this.#post(root, '/lost', session, body, signal), placeSchema);
  }

  async leave(root: string, session: string, body: Leave, signal: AbortSignal): Promise<void> {
    check(root, await this.#post(root, '/leave', session, body, signal));
  }

  async keys(root: string, signal: AbortSignal): Promise<RootKeys> {
    return read(root, await this.#send(root, { method: 'GET', path: '/keys' }, signal), keysSchema);
  }

  /** Ends all connections, running requests too. */
  close(): Promise<void> {
    return this.#agent.destroy();
  }

  #post(root: string, path: string, session: string, body: unknown, signal: AbortSignal): Promise<Reply> {
    return this.#send(root, { method: 'POST', path, body, authorization: `Bearer ${session}` }, signal);
  }

  async #send(
    root: string,
    { method, path, body, authorization }: Call,
    signal: AbortSignal,
  ): Promise<Reply> {
    const headers = {
      ...(body !== undefined && { 'content-type': 'application/json' }),
      ...(authorization && { authorization }),
    };
    try {
      const response = await request(`${root.replace(/\/+$/, '')}${ROOT_PATH}${path}`, {
        dispatcher: this.#agent,
        method,
        headers,
        signal,
        ...(body !== undefined && { body: JSON.stringify(body) }),
      });
      const bytes = await readAtMost(response.body, MAX_ANSWER_BYTES);
      if (bytes === null) throw new RootError('ERR_ROOT_ANSWER', `the root ${root} answers too much`);
      return { status: response.statusCode, challenge: challengeOf(response), body: bytes };
    } catch (cause) {
      if (cause instanceof RootError) throw cause;
      const why = cause instanceof Error ? cause.message : String(cause);
      throw new RootError('ERR_ROOT_UNREACHABLE', `no answer from the root ${root}: ${why}`, { cause });
    }
  }
}

const CODES: ReadonlyMap<number, RootErrorCode> = new Map([
  [401, 'ERR_ROOT_UNAUTHORIZED'],
  [403, 'ERR_ROOT_UNAUTHORIZED'],
  [404, 'ERR_ROOT_UNKNOWN_MEMBER'],
  [429, 'ERR_ROOT_UNREACHABLE'],
]);

function check(root: string, { status, body }: Reply): void {
  if (status >= 200 && status < 300) return;
  const code = CODES.get(status) ?? (status >= 500 ? 'ERR_ROOT_UNREACHABLE' : 'ERR_ROOT_ANSWER');
  const said = body.toString('utf8').slice(0, MAX_SHOWN_CHARS);
  throw new RootError(code, `the root ${root} answered ${status}: ${said}`);
}

function read<T>(root: string, reply: Reply, schema: z.ZodType<T>): T {
  check(root, reply);
  try {
    return schema.parse(JSON.parse(reply.body.toString('utf8')));
  } catch (cause) {
    throw new RootError('ERR_ROOT_ANSWER', `the root ${root} gives an answer that cannot be read`, { cause });
  }
}
