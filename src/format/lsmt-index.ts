import { FormatError } from './errors.ts';
import { INDEX_ENTRY_BYTES, LSMT_HEADER_BYTES, MAX_LAYER_SEGMENTS } from './lsmt-header.ts';
import { SECTOR_BYTES, type SegmentTable } from './segments.ts';

/*
 * An entry is two 64-bit words: lba (50 bits) | length << 50 (14 bits), then data offset (55 bits) |
 * zeroed << 55 | tag << 56. The tag says where a layer merged by other tools had it from and is ignored.
 * They are taken apart here in halves of 32 bits, which numbers can do.
 */
const LBA_HIGH_BITS = 18;
const DATA_HIGH_BITS = 23;
const TWO_32 = 2 ** 32;
const LBA_HIGH_MASK = 2 ** LBA_HIGH_BITS - 1;
const DATA_HIGH_MASK = 2 ** DATA_HIGH_BITS - 1;

/** The lba of an entry that only fills the index up. */
const PADDING_LBA = 2 ** 50 - 1;

/** Entries are made no longer than this; 14 bits could hold 16,383. */
const MAX_ENTRY_SECTORS = 16_382;

/** Indexes are padded to a multiple of this many entries (4096 bytes), and the padding is counted. */
export const INDEX_PADDING_ENTRIES = 256;

/** Where data may stand in a file: behind the header, before the index. In sectors. */
const FIRST_DATA_SECTOR = LSMT_HEADER_BYTES / SECTOR_BYTES;

/**
 * Decodes an index and checks that it is sorted, without overlap, and points at data between the header and
 * `indexOffset` (bytes).
 * @throws FormatError ERR_LSMT_CORRUPT, or ERR_LIMIT for more than 1,000,000 segments
 */
export function decodeIndex(bytes: Buffer, indexOffset: number): SegmentTable {
  const words = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const count = countSegments(words);
  const table = {
    count,
    lba: new Float64Array(count),
    length: new Uint16Array(count),
    data: new Float64Array(count),
    zeroed: new Uint8Array(count),
  };
  for (let i = 0; i < count; i++) {
    const at = i * INDEX_ENTRY_BYTES;
    const dataHigh = words.getUint32(at + 12, true);
    table.lba[i] = lbaAt(words, at);
    table.length[i] = words.getUint32(at + 4, true) >>> LBA_HIGH_BITS;
    table.data[i] = words.getUint32(at + 8, true) + (dataHigh & DATA_HIGH_MASK) * TWO_32;
    table.zeroed[i] = (dataHigh >>> DATA_HIGH_BITS) & 1;
  }
  const problem = findProblem(table, Math.floor(indexOffset / SECTOR_BYTES));
  if (problem !== null) throw new FormatError('ERR_LSMT_CORRUPT', `LSMT index: ${problem}`);
  return table;
}

/**
 * Encodes an index with its padding; `dataEnd` is the sector behind the last data. Neighbours that are
 * contiguous become one entry, and what is too long for an entry becomes several, as in files of the stock tools.
 * @throws RangeError if the table is not one of this file; FormatError ERR_LIMIT for more than 1,000,000 entries
 */
export function encodeIndex(table: SegmentTable, dataEnd: number): { bytes: Buffer; entries: number } {
  const problem = findProblem(table, dataEnd);
  if (problem !== null) throw new RangeError(`segments: ${problem}`);
  const encoder = new IndexEncoder();
  for (let i = 0; i < table.count; i++) {
    encoder.add(table.lba[i]!, table.length[i]!, table.data[i]!, table.zeroed[i]! !== 0);
  }
  return encoder.finish();
}

class IndexEncoder {
  #bytes = Buffer.alloc(INDEX_PADDING_ENTRIES * INDEX_ENTRY_BYTES);
  #entries = 0;
  /** The sector behind the data of the last entry that has data: where zeroed ones nominally stand. */
  #dataEnd = FIRST_DATA_SECTOR;
  #pending: { lba: number; length: number; data: number; zeroed: boolean } | null = null;

  add(lba: number, length: number, data: number, zeroed: boolean): void {
    const last = this.#pending;
    if (
      last !== null &&
      last.lba + last.length === lba &&
      last.zeroed === zeroed &&
      (zeroed || last.data + last.length === data) &&
      last.length + length <= MAX_ENTRY_SECTORS
    ) {
      last.length += length;
      return;
    }
    this.#write();
    this.#pending = { lba, length, data, zeroed };
  }

  finish(): { bytes: Buffer; entries: number } {
    this.#write();
    const entries = Math.ceil(this.#entries / INDEX_PADDING_ENTRIES) * INDEX_PADDING_ENTRIES;
    while (this.#entries < entries) this.#put(PADDING_LBA, 0, 0, false);
    return { bytes: this.#bytes.subarray(0, entries * INDEX_ENTRY_BYTES), entries };
  }

  #write(): void {
    if (this.#pending === null) return;
    const { lba, length, data, zeroed } = this.#pending;
    for (let done = 0; done < length; done += MAX_ENTRY_SECTORS) {
      const part = Math.min(MAX_ENTRY_SECTORS, length - done);
      if (this.#entries === MAX_LAYER_SEGMENTS) throw tooMany();
      this.#put(lba + done, part, zeroed ? this.#dataEnd : data + done, zeroed);
      if (!zeroed) this.#dataEnd = data + done + part;
    }
    this.#pending = null;
  }

  #put(lba: number, length: number, data: number, zeroed: boolean): void {
    const at = this.#entries * INDEX_ENTRY_BYTES;
    if (at === this.#bytes.length)
      this.#bytes = Buffer.concat([this.#bytes, Buffer.alloc(this.#bytes.length)]);
    this.#bytes.writeUInt32LE(lba % TWO_32, at);
    this.#bytes.writeUInt32LE(((length << LBA_HIGH_BITS) | Math.floor(lba / TWO_32)) >>> 0, at + 4);
    this.#bytes.writeUInt32LE(data % TWO_32, at + 8);
    this.#bytes.writeUInt32LE((zeroed ? 2 ** DATA_HIGH_BITS : 0) + Math.floor(data / TWO_32), at + 12);
    this.#entries++;
  }
}

function countSegments(words: DataView): number {
  let count = words.byteLength / INDEX_ENTRY_BYTES;
  while (count > 0 && lbaAt(words, (count - 1) * INDEX_ENTRY_BYTES) === PADDING_LBA) count--;
  if (count > MAX_LAYER_SEGMENTS) throw tooMany();
  return count;
}

function lbaAt(words: DataView, at: number): number {
  return words.getUint32(at, true) + (words.getUint32(at + 4, true) & LBA_HIGH_MASK) * TWO_32;
}

/** What is wrong with a table whose data ends at sector `dataEnd`, or null. */
function findProblem(table: SegmentTable, dataEnd: number): string | null {
  let end = 0;
  for (let i = 0; i < table.count; i++) {
    const lba = table.lba[i]!;
    const length = table.length[i]!;
    const data = table.data[i]!;
    if (length === 0) return `segment ${i} is empty`;
    if (lba < end)
      return `segment ${i} at sector ${lba} begins before sector ${end}, where the last one ends`;
    end = lba + length;
    if (end > PADDING_LBA) return `segment ${i} ends at sector ${end}`;
    // Where zeroed segments nominally stand does not matter.
    if (table.zeroed[i] === 0 && (data < FIRST_DATA_SECTOR || data + length > dataEnd)) {
      return `segment ${i} has its data at sectors ${data} to ${data + length}, outside ${FIRST_DATA_SECTOR} to ${dataEnd}`;
    }
  }
  return null;
}

function tooMany(): FormatError {
  return new FormatError('ERR_LIMIT', `LSMT: a layer has more than ${MAX_LAYER_SEGMENTS} segments`);
}
