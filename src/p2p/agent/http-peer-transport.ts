import { LRUCache } from 'lru-cache';
import { type Dispatcher, Pool } from 'undici';
import { chunkLength, MAX_CHUNK_TABLE_BYTES } from '../../format/chunk-table.ts';
import { readAtMost } from '../../oci/bounded-body.ts';
import type { Digest } from '../../oci/digest.ts';
import { busySchema, PEER_PATH, type Peer } from '../mesh-protocol.ts';
import type { PeerTls } from './peer-security.ts';
import { MAX_REQUESTS_PER_PEER } from './peer-standings.ts';
import {
  PeerError,
  type PeerErrorCode,
  type PeerListener,
  type PeerRequest,
  type PeerTransport,
} from './peer-transport.ts';

/** Peers with connections to them; those that were asked least recently lose theirs. */
const MAX_PEERS = 256;
/** Longer than any budget: only so that nothing is left behind. */
const CONNECT_MS = 2_000;
const SILENCE_MS = 10_000;
const KEEP_ALIVE_MS = 30_000;
const MAX_REFUSAL_BYTES = 16 * 1024;

const REFUSALS: ReadonlyMap<number, { readonly code: PeerErrorCode; readonly what: string }> = new Map([
  [401, { code: 'ERR_PEER_TICKET', what: 'does not take the ticket' }],
  [404, { code: 'ERR_PEER_UNKNOWN_CONTENT', what: 'does not have this content' }],
  [503, { code: 'ERR_PEER_BUSY', what: 'sends as much as it can' }],
]);

/** Asks peers over kept-alive connections, few to each. */
export class HttpPeerTransport implements PeerTransport {
  readonly #tls: PeerTls | null;
  readonly #pools: LRUCache<string, Pool>;

  /** @param tls null for plain HTTP */
  constructor(tls: PeerTls | null) {
    this.#tls = tls;
    this.#pools = new LRUCache({
      max: MAX_PEERS,
      dispose: (pool) => void pool.destroy().catch(() => {}),
    });
  }

  async chunks(peer: Peer, request: PeerRequest, on: PeerListener, signal: AbortSignal): Promise<void> {
    signal.throwIfAborted();
    const { table, ticket, first, count } = request;
    const handler = new ChunkStream(peer, request, on);
    const onAbort = () => handler.abort(signal.reason);
    signal.addEventListener('abort', onAbort, { once: true });
    try {
      this.#pool(peer).dispatch(
        {
          method: 'GET',
          path: `${PEER_PATH}/chunks/${table}?first=${first}&count=${count}`,
          headers: { authorization: `Dadi-Ticket ${ticket}` },
        },
        handler,
      );
      await handler.ended;
    } finally {
      signal.removeEventListener('abort', onAbort);
    }
  }

  /** A chunk table; nobody has verified it. @throws PeerError; the signal's reason */
  async table(peer: Peer, table: Digest, ticket: string, signal: AbortSignal): Promise<Buffer> {
    const fail = (code: PeerErrorCode, what: string, cause?: unknown) =>
      new PeerError(code, `peer ${peer.address}: ${what}`, { cause });
    try {
      const { statusCode, body } = await this.#pool(peer).request({
        method: 'GET',
        path: `${PEER_PATH}/tables/${table}`,
        headers: { authorization: `Dadi-Ticket ${ticket}` },
        signal,
      });
      const bytes = await readAtMost(body, MAX_CHUNK_TABLE_BYTES);
      if (bytes === null) throw fail('ERR_PEER_ANSWER', 'its chunk table has no end');
      if (statusCode === 200) return bytes;
      throw fail('ERR_PEER_UNKNOWN_CONTENT', `it answered ${statusCode} for a chunk table`);
    } catch (error) {
      signal.throwIfAborted();
      if (error instanceof PeerError) throw error;
      throw fail('ERR_PEER_UNREACHABLE', 'it gave no chunk table', error);
    }
  }

  /** Connects to a peer that is about to be asked, if that was never done. Whether it answers. */
  async meet(peer: Peer): Promise<boolean> {
    if (this.#pools.has(peer.address)) return false;
    try {
      const { body } = await this.#pool(peer).request({ method: 'GET', path: PEER_PATH });
      await body.dump();
      return true;
    } catch {
      return false;
    }
  }

  /** Ends all connections, running requests too. */
  async close(): Promise<void> {
    const pools = [...this.#pools.values()];
    this.#pools.clear();
    await Promise.all(pools.map((pool) => pool.destroy()));
  }

  #pool({ address }: Peer): Pool {
    let pool = this.#pools.get(address);
    if (pool === undefined) {
      pool = new Pool(`${this.#tls === null ? 'http' : 'https'}://${address}`, {
        connections: MAX_REQUESTS_PER_PEER,
        allowH2: false,
        headersTimeout: SILENCE_MS,
        bodyTimeout: SILENCE_MS,
        keepAliveTimeout: KEEP_ALIVE_MS,
        // Sessions would be kept by host name alone, and each host may have several peers.
        connect: { timeout: CONNECT_MS, maxCachedSessions: 0, ...this.#tls?.client },
      });
      this.#pools.set(address, pool);
    }
    return pool;
  }
}

/** Cuts an answer into chunks; the bytes are copied once, from the connection's buffer. */
class ChunkStream implements Dispatcher.DispatchHandler {
  readonly ended: Promise<void>;
  readonly #settle = Promise.withResolvers<void>();
  readonly #peer: Peer;
  readonly #request: PeerRequest;
  readonly #on: PeerListener;
  #controller: Dispatcher.DispatchController | null = null;
  #isOver = false;
  #failure: unknown = null;
  #status = 0;
  readonly #refusal: Buffer[] = [];
  #refusalBytes = 0;
  #index: number;
  #chunk: Buffer | null = null;
  #filled = 0;

  constructor(peer: Peer, request: PeerRequest, on: PeerListener) {
    this.ended = this.#settle.promise;
    this.#peer = peer;
    this.#request = request;
    this.#on = on;
    this.#index = request.first;
  }

  abort(reason: unknown): void {
    if (this.#isOver) return;
    // All has come but the end: the connection stays good for the next request.
    if (this.#isWhole) this.#succeed();
    else this.#fail(reason);
  }

  onRequestStart(controller: Dispatcher.DispatchController): void {
    this.#controller = controller;
    if (this.#isOver) controller.abort(asError(this.#failure));
  }

  onResponseStart(_controller: Dispatcher.DispatchController, status: number): void {
    if (status < 200 || this.#isOver) return;
    this.#status = status;
    if (status === 200) this.#on.found();
  }

  onResponseData(_controller: Dispatcher.DispatchController, piece: Buffer): void {
    if (this.#isOver) {
      if (this.#isWhole) this.#controller?.abort(new Error('it sends more than was asked for'));
      return;
    }
    if (this.#status === 200) this.#cut(piece);
    else {
      this.#refusal.push(piece);
      this.#refusalBytes += piece.length;
      if (this.#refusalBytes > MAX_REFUSAL_BYTES)
        this.#broke('ERR_PEER_ANSWER', 'refuses with a long answer');
    }
  }

  onResponseEnd(): void {
    if (this.#isOver) return;
    if (this.#status !== 200) this.#refused();
    else if (this.#filled > 0) this.#broke('ERR_PEER_ANSWER', 'ended its answer inside a chunk');
    else if (this.#index < this.#end)
      this.#broke('ERR_PEER_INCOMPLETE', 'could not get all that was asked for');
    else this.#succeed();
  }

  onResponseError(_controller: Dispatcher.DispatchController, cause: Error): void {
    const message = `no answer, or not all of it (${cause.message})`;
    this.#fail(new PeerError('ERR_PEER_UNREACHABLE', `peer ${this.#peer.address}: ${message}`, { cause }));
  }

  get #isWhole(): boolean {
    return this.#index === this.#end;
  }

  #succeed(): void {
    this.#isOver = true;
    this.#settle.resolve();
  }

  get #end(): number {
    return this.#request.first + this.#request.count;
  }

  #cut(piece: Buffer): void {
    for (let at = 0; at < piece.length && !this.#isOver; ) {
      if (this.#isWhole) {
        this.#broke('ERR_PEER_ANSWER', 'sends more than was asked for');
        return;
      }
      this.#chunk ??= Buffer.allocUnsafeSlow(chunkLength(this.#request.sizes, this.#index));
      const copied = piece.copy(this.#chunk, this.#filled, at);
      this.#filled += copied;
      at += copied;
      if (this.#filled < this.#chunk.length) return;
      const chunk = this.#chunk;
      this.#chunk = null;
      this.#filled = 0;
      this.#on.deliver(this.#index++, chunk);
    }
  }

  #refused(): void {
    const status = this.#status;
    const { code, what } = REFUSALS.get(status) ?? {
      code: status >= 500 ? 'ERR_PEER_UNREACHABLE' : 'ERR_PEER_ANSWER',
      what: `answered ${status}`,
    };
    this.#broke(code, what, code === 'ERR_PEER_BUSY' ? alternatesIn(this.#refusal) : []);
  }

  #broke(code: PeerErrorCode, what: string, alternates: readonly Peer[] = []): void {
    this.#fail(new PeerError(code, `peer ${this.#peer.address} ${what}`, { alternates }));
  }

  #fail(failure: unknown): void {
    if (this.#isOver) return;
    this.#isOver = true;
    this.#failure = failure;
    this.#settle.reject(failure);
    this.#controller?.abort(asError(failure));
  }
}

function asError(reason: unknown): Error {
  return reason instanceof Error ? reason : new Error('aborted', { cause: reason });
}

function alternatesIn(body: readonly Buffer[]): readonly Peer[] {
  try {
    return busySchema.parse(JSON.parse(Buffer.concat(body).toString('utf8'))).alternates;
  } catch {
    return [];
  }
}
