import type { Logger } from 'pino';
import { encodeChunkTable } from '../../format/chunk-table.ts';
import { type Digest, isDigest } from '../../oci/digest.ts';
import { type Answer, bufferAnswer, jsonAnswer, type ServedRequest } from '../../oci/serving/answer.ts';
import { type ErrorAnswer, errorAnswer, requestErrorAnswer } from '../../oci/serving/error-answer.ts';
import { HttpSide, type Route } from '../../oci/serving/http-side.ts';
import { type Address, Listener } from '../../oci/serving/listener.ts';
import { RequestError } from '../../oci/serving/request-error.ts';
import { PEER_PATH, type Peer } from '../mesh-protocol.ts';
import { TokenError } from '../signed-tokens.ts';
import type { Ticket } from '../tickets.ts';
import { ChunkAnswer } from './chunk-answer.ts';
import type { ChunkHolder, HeldContent } from './chunk-holder.ts';
import type { Clock } from './clock.ts';
import type { MeshCounters } from './mesh-counts.ts';
import type { PeerTls } from './peer-security.ts';
import type { TicketChecker } from './ticket-checker.ts';
import { UploadPlaces } from './upload-places.ts';
import { UploadTurns } from './upload-turns.ts';

export interface PeerServerParts {
  readonly listen: Address;
  /** Null for plain HTTP. */
  readonly tls: PeerTls | null;
  readonly uploadBytesPerSecond: number;
  readonly holder: ChunkHolder;
  readonly tickets: Pick<TicketChecker, 'check'>;
  /** Whether this host is getting a content that it may not hold yet. */
  readonly isComing: (table: Digest) => boolean;
  /** Who else may have a content. */
  readonly alternates: (table: Digest) => readonly Peer[];
  readonly counters: MeshCounters;
  readonly clock: Clock;
  readonly logger: Logger;
}

/** Of one request, unless it is for one chunk. */
const MAX_REQUEST_BYTES = 8 * 1024 * 1024;
const MAX_IN_FLIGHT_BYTES = 16 * 1024 * 1024;
const MAX_ALTERNATES = 4;
const LIMITS = { max: 1024, requestTimeoutMs: 10_000, stalledClientMs: 5_000 };
const DRAIN_MS = 500;
/**
 * A host that has joined for an image is about to open it: its children may be a little ahead. When many hosts start at
 * once all wait for the first one's chunk table, nearly as long as they are given for it: else all ask the proxies. For
 * chunks others ask an alternate too meanwhile.
 */
const COMING_MS = { chunks: 1_000, tables: 450 } as const;
const COMING_POLL_MS = 10;
const BYTES = { 'content-type': 'application/octet-stream' };

/** Gives other hosts what this one has, or is getting. */
export class PeerServer {
  readonly #parts: PeerServerParts;
  readonly #places: UploadPlaces;
  readonly #turns: UploadTurns;
  readonly #http: HttpSide;
  #listener: Listener | null = null;

  private constructor(parts: PeerServerParts) {
    const { uploadBytesPerSecond, clock, logger } = parts;
    this.#parts = parts;
    this.#places = new UploadPlaces(uploadBytesPerSecond, clock);
    const limits = { bytesPerSecond: uploadBytesPerSecond, maxInFlightBytes: MAX_IN_FLIGHT_BYTES };
    this.#turns = new UploadTurns(limits, clock);
    this.#http = new HttpSide(this.#routes(), {
      log: logger,
      onEnd: () => {},
      errorAnswer: answerOf,
    });
  }

  /** Rejects with the system's error if nobody can listen there. */
  static async start(parts: PeerServerParts): Promise<PeerServer> {
    const server = new PeerServer(parts);
    const tls = parts.tls?.server ?? null;
    server.#listener = await Listener.open(server.#http, parts.listen, { ...LIMITS, tls });
    return server;
  }

  /** Where it really listens. */
  get address(): Address {
    return this.#listener!.address;
  }

  get children(): number {
    return this.#places.children;
  }

  async close(): Promise<void> {
    await this.#listener!.close(DRAIN_MS);
    await this.#http.idle();
  }

  #routes(): readonly Route[] {
    const route = (
      kind: keyof typeof COMING_MS,
      answer: (request: ServedRequest, held: HeldContent, ticket: Ticket) => Answer,
    ): Route => ({
      path: `${PEER_PATH}/${kind}/:table`,
      methods: ['GET'],
      kind: `peer ${kind}`,
      logLevel: 'debug',
      handle: async (request, { table = '' }) => {
        const ticket = await this.#ticket(request, table);
        return answer(request, await this.#held(ticket, COMING_MS[kind], request.signal), ticket);
      },
    });
    return [
      route('chunks', (request, held, ticket) => this.#chunks(request, held, ticket)),
      route('tables', (_request, { table }) => bufferAnswer(200, encodeChunkTable(table), BYTES)),
      // For who only wants a connection.
      { path: PEER_PATH, methods: ['GET'], kind: 'peer', logLevel: 'debug', handle: () => jsonAnswer({}) },
    ];
  }

  #chunks({ query }: ServedRequest, held: HeldContent, { member, table }: Ticket): Answer {
    const { counters, alternates } = this.#parts;
    const run = readRun(query, held);
    const leave = this.#places.enter(member);
    if (leave === null) {
      counters.refusedBusy++;
      const others = alternates(table).filter(({ id }) => id !== member);
      const body = Buffer.from(JSON.stringify({ alternates: others.slice(0, MAX_ALTERNATES) }));
      return bufferAnswer(503, body, { 'content-type': 'application/json' });
    }
    const parts = { held, child: member, ...run, turns: this.#turns, counters, onEnd: leave };
    return { status: 200, headers: BYTES, body: new ChunkAnswer(parts) };
  }

  async #ticket({ headers }: ServedRequest, table: string): Promise<Ticket> {
    const { tickets, counters } = this.#parts;
    const [, text] = /^Dadi-Ticket (\S+)$/i.exec(headers.authorization ?? '') ?? [];
    try {
      if (text === undefined) throw new RequestError('UNAUTHORIZED', 'show the ticket that a root gave');
      const ticket = await tickets.check(text);
      if (!isDigest(table) || ticket.table !== table) {
        throw new RequestError('UNAUTHORIZED', 'this ticket is for another chunk table');
      }
      return ticket;
    } catch (error) {
      counters.refusedTicket++;
      throw error;
    }
  }

  async #held({ table, blob }: Ticket, comingMs: number, signal: AbortSignal): Promise<HeldContent> {
    const { holder, isComing, clock, counters } = this.#parts;
    const untilMs = clock.now() + comingMs;
    let held = holder.find(table);
    while (held === null && isComing(table) && clock.now() < untilMs) {
      await clock.sleep(COMING_POLL_MS, signal);
      held = holder.find(table);
    }
    if (held === null) throw new RequestError('BLOB_UNKNOWN', 'this host does not have this content');
    if (held.blob === blob) return held;
    counters.refusedTicket++;
    throw new RequestError('UNAUTHORIZED', 'this ticket is for another blob');
  }
}

function readRun(query: URLSearchParams, { table }: HeldContent): { first: number; count: number } {
  const [first, count] = [readCount(query.get('first')), readCount(query.get('count'))];
  const chunks = Math.ceil(table.blobSize / table.chunkSize);
  if (first === null || count === null || count === 0 || first + count > chunks) {
    throw new RequestError('RANGE_INVALID', `first and count must be chunks of the ${chunks} that there are`);
  }
  if (count > 1 && count * table.chunkSize > MAX_REQUEST_BYTES) {
    throw new RequestError('RANGE_INVALID', `ask for no more than ${MAX_REQUEST_BYTES} bytes at once`);
  }
  return { first, count };
}

function readCount(text: string | null): number | null {
  return text !== null && /^\d{1,9}$/.test(text) ? Number(text) : null;
}

function answerOf(error: unknown): ErrorAnswer {
  if (error instanceof RequestError) return requestErrorAnswer(error);
  if (error instanceof TokenError) return errorAnswer('UNAUTHORIZED', error.message, { isFault: false });
  return errorAnswer('UNKNOWN', "the mesh's agent failed: its log says why");
}
