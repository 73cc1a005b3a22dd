import { hash } from 'node:crypto';
import type { Algorithm } from '../format/block-codec.ts';
import { DEFAULT_CHUNK_BYTES } from '../format/chunk-table.ts';
import type { HashAlgorithm } from '../format/digest-state.ts';
import {
  BlockCompressor,
  type BlockOptions,
  type PieceCompressor,
  type TakeBlocks,
} from '../format/zfile-blocks.ts';
import type { Bell } from './bell.ts';
import { HASH_LANE_BYTES, HashLane, type OpenHashLane } from './hash-lane.ts';
import { RingOwner } from './ring-owner.ts';
import { type RingShape, ringBytes, SlotRing } from './slot-ring.ts';

/** Large enough that handing a piece over costs next to nothing, small enough to share the work out evenly. */
const PIECE_BYTES = 256 * 1024;
const MAX_BLOCKS = PIECE_BYTES / 4096;
/** A piece's output begins with the length of each of its blocks. */
const LENGTHS_BYTES = MAX_BLOCKS * Uint32Array.BYTES_PER_ELEMENT;
const DIGEST_BYTES = 32;

const PIECES: RingShape = {
  slots: 8,
  inputBytes: PIECE_BYTES,
  // An incompressible piece of the smallest blocks becomes no longer than this, with any algorithm.
  outputBytes: LENGTHS_BYTES + PIECE_BYTES + MAX_BLOCKS * 128,
};
const CHUNKS: RingShape = { slots: 6, inputBytes: DEFAULT_CHUNK_BYTES, outputBytes: DIGEST_BYTES };

/** The area's integers: whether to give the layer up, and what decides the blocks' bytes. */
const ABORTED = 0;
const ALGORITHM = 1;
const LEVEL = 2;
const BLOCK_BYTES = 3;
const HEADER_BYTES = 64;
const ALGORITHMS: readonly Algorithm[] = ['lz4', 'zstd'];

const PIECES_AT = HEADER_BYTES;
const CHUNKS_AT = PIECES_AT + ringBytes(PIECES);
const FILE_LANE_AT = CHUNKS_AT + ringBytes(CHUNKS);
const TAR_LANE_AT = FILE_LANE_AT + HASH_LANE_BYTES;
const AREA_BYTES = TAR_LANE_AT + HASH_LANE_BYTES;

/**
 * Memory that a layer's thread, its owner, shares with all others, and what is to be done with what stands in it: pieces
 * to be compressed, chunks to be digested, two streams to be hashed.
 */
export class SharedWork {
  readonly memory: SharedArrayBuffer;
  readonly #integers: Int32Array;
  readonly #pieces: SlotRing;
  readonly #chunks: SlotRing;
  readonly #fileLane: HashLane;
  readonly #tarLane: HashLane;
  /** Makes blocks as the owner's layer wants them. Of this thread; made anew when the layer wants others. */
  #compressor: { readonly key: string; readonly blocks: BlockCompressor } | null = null;

  /** Over new memory, or over memory that another thread has made. */
  constructor(memory = new SharedArrayBuffer(AREA_BYTES)) {
    this.memory = memory;
    this.#integers = new Int32Array(memory, 0, HEADER_BYTES / Int32Array.BYTES_PER_ELEMENT);
    this.#pieces = new SlotRing(memory, PIECES_AT, PIECES, (input, output) => this.#compress(input, output));
    this.#chunks = new SlotRing(memory, CHUNKS_AT, CHUNKS, (input, output) =>
      hash('sha256', input, 'buffer').copy(output),
    );
    this.#fileLane = new HashLane(memory, FILE_LANE_AT);
    this.#tarLane = new HashLane(memory, TAR_LANE_AT);
  }

  get isAborted(): boolean {
    return Atomics.load(this.#integers, ABORTED) !== 0;
  }

  /** Tells the owner to give its layer up. */
  abort(): void {
    Atomics.store(this.#integers, ABORTED, 1);
  }

  /** Takes back an earlier {@link abort}. */
  permit(): void {
    Atomics.store(this.#integers, ABORTED, 0);
  }

  /** For the owner: has the pieces of a ZFile compressed. */
  compressor(bell: Bell, { algorithm, level, blockSize }: BlockOptions, take: TakeBlocks): PieceCompressor {
    const owner = new RingOwner(this.#pieces, bell, (input, output) => {
      const blocks = Math.ceil(input.length / blockSize);
      take(output.subarray(LENGTHS_BYTES), lengthsIn(output).subarray(0, blocks));
    });
    Atomics.store(this.#integers, ALGORITHM, ALGORITHMS.indexOf(algorithm));
    Atomics.store(this.#integers, LEVEL, level ?? 0);
    Atomics.store(this.#integers, BLOCK_BYTES, blockSize);
    return owner;
  }

  /** For the owner: has chunks of a blob digested; `take` gets each and its SHA-256. */
  chunks(bell: Bell, take: (chunk: Buffer, digest: Buffer) => void): RingOwner {
    return new RingOwner(this.#chunks, bell, take);
  }

  /** For the owner: has the layer's file, or its tar, hashed. */
  hash(what: 'file' | 'tar', algorithm: HashAlgorithm, bell: Bell): OpenHashLane {
    return (what === 'file' ? this.#fileLane : this.#tarLane).open(algorithm, bell);
  }

  /** Does something of what is to be done; false if there is nothing. `worker` is one's number, not the owner's. */
  help(worker: number): boolean {
    // Hashes first: the owner cannot share them out once it has to wait for them.
    return (
      this.#fileLane.hash(worker) ||
      this.#tarLane.hash(worker) ||
      this.#pieces.workOnOne(worker) ||
      this.#chunks.workOnOne(worker)
    );
  }

  /** Gives back what a thread had taken that is no more. */
  abandon(worker: number): void {
    for (const part of [this.#fileLane, this.#tarLane, this.#pieces, this.#chunks]) part.abandon(worker);
  }

  #compress(input: Buffer, output: Buffer): number {
    const blocks = this.#blockCompressor();
    return LENGTHS_BYTES + blocks.compress(input, output.subarray(LENGTHS_BYTES), lengthsIn(output));
  }

  #blockCompressor(): BlockCompressor {
    const [algorithm, level, blockSize] = [ALGORITHM, LEVEL, BLOCK_BYTES].map((at) =>
      Atomics.load(this.#integers, at),
    );
    const key = `${algorithm} ${level} ${blockSize}`;
    if (this.#compressor?.key !== key) {
      const options = { algorithm: ALGORITHMS[algorithm!]!, level: level!, blockSize: blockSize! };
      this.#compressor = { key, blocks: new BlockCompressor(options) };
    }
    return this.#compressor.blocks;
  }
}

function lengthsIn(output: Buffer): Uint32Array {
  return new Uint32Array(output.buffer, output.byteOffset, MAX_BLOCKS);
}
