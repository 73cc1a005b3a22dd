import { Readable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import {
  type ChunkTable,
  chunkLength,
  DEFAULT_CHUNK_BYTES,
  encodeChunkTable,
  verifyChunk,
} from '../../format/chunk-table.ts';
import { unlessAborted } from '../../format/unless-aborted.ts';
import { type Digest, digestOf, shortDigest } from '../../oci/digest.ts';
import { type OnFilled, readExactly } from '../../oci/registry-http.ts';
import type { BlobBody } from '../../oci/resumed-body.ts';
import type { HeldContent } from '../../p2p/agent/chunk-holder.ts';
import type { Content } from '../../p2p/mesh-protocol.ts';
import { type BlobUser, fetchWithPeers } from '../chunks/chunk-fetcher.ts';
import { FetchQueue } from '../chunks/fetch-queue.ts';
import type { ArrivingBlob } from './arriving-blob.ts';
import { blobBody } from './blob-body.ts';
import type { BlobMesh, ChunkedBlobs } from './chunked-blobs.ts';
import { type Asked, askFor, type MirrorContext } from './mirror-context.ts';
import { type ComingChunks, requestTable } from './table-request.ts';

export interface ComingParts extends MirrorContext {
  readonly chunked: ChunkedBlobs;
  readonly mesh: BlobMesh;
}

const DIGEST_BYTES = 32;
/** Chunks that are being fetched, or wait for those before them. */
const WINDOW = 8;
/** How long a chunk may take, before the rest is had from a proxy as it comes: two attempts. */
const CHUNK_MS = 60_000;
/** One question to a proxy. */
const WAIT_SECONDS = 10;
/** Between questions: part of the time since the first, so that many hosts cost a proxy little. */
const PAUSE_SHARE = 0.1;
const MIN_PAUSE_MS = 250;
const MAX_PAUSE_MS = 1_000;
/** Questions without an answer, one after the other. */
const MAX_FAILURES = 3;

/**
 * A blob that a proxy is fetching from its registry, got from other hosts while they get it: each is told the digests of
 * its chunks as they come to the proxy, which sends each chunk about once. The chunk table is known only at the end, so
 * that there is a tree for the time before, by a name that all hosts give it. Until then chunks are right by the word of
 * the proxy alone: the whole is verified at its end.
 */
export class ComingBlob {
  readonly #parts: ComingParts;
  readonly #asked: Asked;
  readonly #signal: AbortSignal;
  readonly #content: Content;
  /** Of the chunks that are not known yet it says nothing. */
  readonly #table: ChunkTable;
  readonly #chunks: number;
  readonly #user: BlobUser & { readonly peers: NonNullable<BlobUser['peers']> };
  readonly #queue: FetchQueue;
  readonly #lent: (() => void)[] = [];
  readonly #blob = Promise.withResolvers<ArrivingBlob>();
  #arrivedBytes = () => 0;
  #known = 0;
  #failure: unknown = null;
  #news = Promise.withResolvers<void>();
  #next = 0;
  readonly #window: Promise<Buffer>[] = [];

  /** @param signal ends it; it belongs to the blob, not to who asked */
  constructor(parts: ComingParts, asked: Asked, digest: Digest, first: ComingChunks, signal: AbortSignal) {
    this.#parts = parts;
    const query = new URLSearchParams(asked.request.query);
    query.set('unverified', '1');
    this.#asked = { ...asked, request: { ...asked.request, query, signal } };
    this.#signal = signal;
    // Nobody may be waiting for it.
    this.#blob.promise.catch(() => {});
    this.#chunks = Math.ceil(first.sizeBytes / DEFAULT_CHUNK_BYTES);
    this.#table = {
      chunkSize: DEFAULT_CHUNK_BYTES,
      blobSize: first.sizeBytes,
      digests: Buffer.alloc(this.#chunks * DIGEST_BYTES),
    };
    this.#content = { blob: digest, table: digestOf(`dadi: chunks to come of ${digest}`) };
    // Others may be told of this host as soon as it joins.
    this.#lend(this.#content.table);
    parts.mesh.join(asked.target, [this.#content]);
    const peers = parts.mesh.open(this.#content, this.#table, 'long');
    this.#user = { fetch: (...range) => this.#range(...range), stats: parts.chunked.stats, peers };
    this.#queue = new FetchQueue({
      name: `blob ${shortDigest(digest)}`,
      chunkSize: DEFAULT_CHUNK_BYTES,
      timeoutMs: CHUNK_MS,
      fetch: (at, count, ends, deliver) => fetchWithPeers(this.#table, at, count, this.#user, ends, deliver),
      keep: async () => {},
      sources: () => 1,
    });
    this.#learn(first.digests);
  }

  /** All of it, to be asked for once; fails when its chunks do not come. */
  body(): BlobBody {
    const body = Readable.from(this.#pieces(), { objectMode: false });
    // Also of a body that nobody begins to read: its generator would not come to an end.
    body.once('close', () => void this.#closeQueue());
    return { sizeBytes: this.#table.blobSize, offsetBytes: 0, body };
  }

  /** From now on other hosts are given what has arrived of it, and more of its chunks are asked for. */
  begin(blob: ArrivingBlob): void {
    this.#blob.resolve(blob);
    this.#arrivedBytes = () => blob.arrivedBytes;
    void this.#follow();
  }

  /** Nobody is given anything of it any more. */
  close(): void {
    this.#blob.reject(new Error('the blob is not on its way any more'));
    for (const end of this.#lent.splice(0)) end();
  }

  async *#pieces(): AsyncGenerator<Buffer, void, void> {
    for (let index = 0; index < this.#chunks; index++) {
      this.#fill();
      while (this.#window.length === 0) {
        if (this.#failure !== null) throw this.#failure;
        await unlessAborted(this.#news.promise, this.#signal);
        this.#fill();
      }
      yield await unlessAborted(this.#window[0]!, this.#signal);
      void this.#window.shift();
    }
  }

  /** Several at a time, so that they become one request. */
  #fill(): void {
    if (this.#window.length > WINDOW / 2) return;
    while (this.#window.length < WINDOW && this.#next < this.#known) {
      const chunk = this.#queue.get(this.#next++, true);
      // Awaited when its turn comes; a failure before that must not count as unhandled.
      chunk.catch(() => {});
      this.#window.push(chunk);
    }
  }

  async #closeQueue(): Promise<void> {
    await this.#queue.close();
    await this.#user.peers.close();
  }

  async #follow(): Promise<void> {
    const startMs = performance.now();
    try {
      for (let failures = 0; failures < MAX_FAILURES; ) {
        const share = PAUSE_SHARE * (performance.now() - startMs);
        const pauseMs = Math.min(Math.max(share, MIN_PAUSE_MS), MAX_PAUSE_MS);
        await sleep(pauseMs, undefined, { signal: this.#signal, ref: false });
        const wanted = { waitSeconds: WAIT_SECONDS, knownChunks: this.#known };
        const told = await requestTable(this.#parts, this.#asked, this.#content.blob, wanted);
        failures = told.kind === 'none' ? failures + 1 : 0;
        if (told.kind === 'coming') this.#learn(told.chunks.digests);
        if (told.kind !== 'whole') continue;
        this.#complete(told.known.table);
        return;
      }
      throw new Error('no proxy tells any more of the chunks of the blob');
    } catch (error) {
      this.#failure = error;
      this.#wake();
    }
  }

  #learn(digests: Buffer): void {
    digests.copy(this.#table.digests, this.#known * DIGEST_BYTES);
    this.#known = Math.min(this.#known + Math.floor(digests.length / DIGEST_BYTES), this.#chunks);
    this.#fill();
    this.#wake();
  }

  /** Who asks the proxy from now on is told the table at once. */
  #complete(table: ChunkTable): void {
    const { chunkSize, blobSize, digests } = table;
    if (chunkSize !== this.#table.chunkSize || blobSize !== this.#table.blobSize) {
      throw new Error('the proxy tells of another blob than before');
    }
    this.#learn(digests.subarray(this.#known * DIGEST_BYTES));
    this.#lend(digestOf(encodeChunkTable(table)));
    this.#parts.chunked.offer(this.#asked.target, this.#content.blob, table);
  }

  #wake(): void {
    this.#news.resolve();
    this.#news = Promise.withResolvers();
  }

  /** From a proxy. */
  async #range(offset: number, length: number, signal: AbortSignal, onFilled?: OnFilled): Promise<Buffer> {
    const headers = { range: `bytes=${offset}-${offset + length - 1}` };
    const options = { method: 'GET', lane: 'bulk', headers, signal } as const;
    const { blob } = this.#content;
    const answer = await askFor(this.#parts, this.#asked, `blobs/${blob}`, options);
    const { body } = blobBody(answer, { offset, length });
    const context = { host: answer.host, repository: null, reference: blob };
    return readExactly(body, length, context, onFilled);
  }

  #lend(table: Digest): void {
    const endOf = (index: number) => index * DEFAULT_CHUNK_BYTES + chunkLength(this.#table, index);
    const content: HeldContent = {
      blob: this.#content.blob,
      table: this.#table,
      has: (index) => endOf(index) <= this.#arrivedBytes(),
      chunk: async (index, signal) => {
        const blob = await unlessAborted(this.#blob.promise, signal);
        const end = endOf(index);
        for (let arrived = 0; arrived < end; ) {
          arrived = await blob.readableTo({ start: arrived, end }, signal);
        }
        const bytes = Buffer.allocUnsafeSlow(chunkLength(this.#table, index));
        await blob.read(end - bytes.length, bytes);
        if (verifyChunk(this.#table, index, bytes)) return bytes;
        throw new Error(`chunk ${index} is not known to be right`);
      },
    };
    this.#lent.push(this.#parts.mesh.lend(table, content));
  }
}
