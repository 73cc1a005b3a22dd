import type { ByteString } from './byte-string.ts';
import { FormatError } from './errors.ts';
import { readNumber, TAR_BLOCK_BYTES } from './tar-header.ts';
import { type PaxRecords, parseCount } from './tar-pax.ts';

/** Pieces of data that one sparse file may have: bounds the memory that a map takes to a few megabytes. */
export const MAX_SPARSE_EXTENTS = 262_144;
/**
 * Bytes that one file may have, holes included: 16 TiB, the largest of ext4, and as much as a whole device of ours
 * holds. A map of a few bytes may claim any size.
 */
export const MAX_FILE_BYTES = 2 ** 44;
const LINE_FEED = 0x0a;
/** 2^53 has 16 digits. */
const MAX_MAP_LINE_BYTES = 16;

/** Where a sparse file's data lies: offset and length in bytes, in pairs, ascending. All else is holes. */
export type SparseExtents = readonly number[];

/** How a pax entry's sparse map is given (GNU tar manual, "PAX Format, Versions 0.0, 0.1 and 1.0"). */
export interface PaxSparse {
  /** The file's size, holes included. */
  readonly sizeBytes: number;
  readonly name: ByteString | null;
  /** Null in format 1.0: the map stands before the data, see {@link SparseMapReader}. */
  readonly extents: SparseExtents | null;
}

/** What an extended header says about a sparse file; null if it does not say that the file is one. */
export function paxSparse(records: PaxRecords): PaxSparse | null {
  const text = (key: string) => records.fields.get(`GNU.sparse.${key}`)?.toString('latin1') ?? null;
  const name = text('name');
  const version = `${text('major') ?? '0'}.${text('minor') ?? '0'}`;
  if (version === '1.0') {
    return { sizeBytes: parseCount(text('realsize') ?? '', 'GNU.sparse.realsize'), name, extents: null };
  }
  if (version !== '0.0' && version !== '0.1') {
    throw new FormatError('ERR_UNSUPPORTED', `GNU sparse format ${version}`);
  }
  const size = text('size');
  if (size === null) return null;
  const map = text('map');
  const numbers = map === null ? records.sparsePairs : parseMap(map);
  checkCount(numbers.length / 2);
  return { sizeBytes: parseCount(size, 'GNU.sparse.size'), name, extents: numbers };
}

function parseMap(map: ByteString): number[] {
  return map === '' ? [] : map.split(',').map((field) => parseCount(field, 'GNU.sparse.map'));
}

/**
 * Adds to `extents` what the old GNU map fields in `block` from `start` on say, at most `count` of them. The map
 * ends at an empty field.
 */
export function readOldGnuExtents(block: Buffer, start: number, count: number, extents: number[]): void {
  for (let at = start; at < start + count * 24 && block[at] !== 0; at += 24) {
    extents.push(readBlockNumber(block, at), readBlockNumber(block, at + 12));
  }
  checkCount(extents.length / 2);
}

/** The real size of a file in an old GNU sparse header. */
export function readOldGnuSize(block: Buffer): number {
  return readBlockNumber(block, 483);
}

function readBlockNumber(block: Buffer, start: number): number {
  const value = readNumber(block, start, start + 12);
  if (value === null || !Number.isSafeInteger(value)) {
    throw new FormatError('ERR_TAR_CORRUPT', 'sparse header: a field of the map is not a number');
  }
  return value;
}

/** The map of format 1.0: lines of decimal numbers (their pairs' count, then the pairs), filled up to whole blocks. */
export class SparseMapReader {
  readonly #numbers: number[] = [];
  #line = '';
  #wanted = 1;

  /** Takes one block of the map. Returns the extents once the map is whole, else null. */
  push(block: Buffer): SparseExtents | null {
    for (let at = 0; at < TAR_BLOCK_BYTES; at++) {
      const byte = block[at]!;
      if (byte !== LINE_FEED) {
        if (this.#line.length === MAX_MAP_LINE_BYTES) {
          throw new FormatError('ERR_TAR_CORRUPT', 'sparse map: a line too long');
        }
        this.#line += String.fromCharCode(byte);
        continue;
      }
      this.#numbers.push(parseCount(this.#line, 'a line of the sparse map'));
      this.#line = '';
      if (this.#numbers.length === 1) {
        checkCount(this.#numbers[0]!);
        this.#wanted = 1 + 2 * this.#numbers[0]!;
      }
      if (this.#numbers.length === this.#wanted) return this.#numbers.slice(1);
    }
    return null;
  }
}

function checkCount(extents: number): void {
  if (extents > MAX_SPARSE_EXTENTS) {
    throw new FormatError('ERR_LIMIT', `a sparse file of more than ${MAX_SPARSE_EXTENTS} pieces`);
  }
}

/** Throws ERR_TAR_CORRUPT unless the extents ascend, lie in the file and hold just the bytes that the archive has. */
export function checkExtents(extents: SparseExtents, sizeBytes: number, dataBytes: number): void {
  let end = 0;
  let held = 0;
  for (let i = 0; i < extents.length; i += 2) {
    const offset = extents[i]!;
    const length = extents[i + 1] ?? -1;
    if (offset < end || length < 0 || offset + length > sizeBytes) {
      throw new FormatError('ERR_TAR_CORRUPT', 'sparse map: its pieces overlap or leave the file');
    }
    end = offset + length;
    held += length;
  }
  if (held !== dataBytes) {
    throw new FormatError('ERR_TAR_CORRUPT', `sparse map: ${held} bytes, the archive has ${dataBytes}`);
  }
}
