/** Changes to LSMT files, which have no checksums but whose numbers depend on each other. */
import { mutate, oddNumber } from './mutate.ts';
import type { Random } from './random.ts';

const HEADER = 4096;
const ENTRY = 16;
const FIELDS = [
  [24, 4],
  [28, 4],
  [32, 8],
  [40, 8],
  [48, 8],
  [56, 8],
  [93, 8],
  [132, 1],
] as const;
const SECTORS = 1 << 16;

/** Changes fields of header or trailer, entries of the index, or anything. */
export function mutateLsmt(file: Buffer, random: Random, other: Buffer): Buffer {
  const index = indexRange(file);
  if (random.oneIn(3) || index === null) {
    const hot = [
      [0, 390],
      [file.length - HEADER, file.length - HEADER + 390],
      ...(index ? [index] : []),
    ] as const;
    return mutate(file, random, { other, hot });
  }
  const changed = Buffer.from(file);
  for (let changes = 1 + random.below(4); changes > 0; changes--) {
    if (random.oneIn(4)) changeField(changed, random);
    else changeEntry(changed.subarray(...index), changed.length, random);
  }
  return changed;
}

function changeField(file: Buffer, random: Random): void {
  const start = random.oneIn(3) ? 0 : file.length - HEADER;
  const [at, width] = random.pick(FIELDS);
  const number = oddNumber(random, width * 8);
  for (let i = 0; i < width; i++) file[start + at + i] = Number((number >> BigInt(8 * i)) & 0xffn);
}

/** Keeps the entry's shape: most numbers of 50 and 55 bits are far outside of any file. */
function changeEntry(index: Buffer, fileBytes: number, random: Random): void {
  const entry = index.subarray(ENTRY * random.below(index.length / ENTRY)).subarray(0, ENTRY);
  const position = entry.readBigUInt64LE(0);
  const data = entry.readBigUInt64LE(8);
  const [lba, length] = [position & ((1n << 50n) - 1n), position >> 50n];
  switch (random.below(4)) {
    case 0:
      writeLow(entry, 0, (BigInt(random.below(SECTORS)) & ((1n << 50n) - 1n)) | (length << 50n));
      break;
    case 1:
      writeLow(entry, 0, lba | (oddNumber(random, 14) << 50n));
      break;
    case 2:
      writeLow(entry, 8, BigInt(random.below(fileBytes / 512 + 2)) | ((data >> 55n) << 55n));
      break;
    default:
      writeLow(entry, 8, data ^ (1n << BigInt(50 + random.below(14))));
      break;
  }
}

function writeLow(entry: Buffer, at: number, value: bigint): void {
  entry.writeBigUInt64LE(BigInt.asUintN(64, value), at);
}

function indexRange(file: Buffer): readonly [number, number] | null {
  const trailer = file.subarray(-HEADER);
  if (trailer.length < HEADER) return null;
  const start = Number(trailer.readBigUInt64LE(32));
  const end = start + ENTRY * Number(trailer.readBigUInt64LE(40));
  return start >= HEADER && end > start && end <= file.length ? [start, end] : null;
}
