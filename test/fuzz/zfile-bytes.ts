/** Changes to ZFiles that get past their checksums. */
import { crc32c } from '../../src/format/crc32c.ts';
import { mutate, oddNumber } from './mutate.ts';
import type { Random } from './random.ts';

const HEADER = 512;
const AT = { digest: 28, flags: 32, indexOffset: 40, indexEntries: 48, indexCrc: 64, verify: 88 } as const;
/** Offset and width in bytes of all fields of a header or trailer. */
const FIELDS = [
  [24, 4],
  [AT.flags, 1],
  [AT.indexOffset, 8],
  [AT.indexEntries, 8],
  [56, 8],
  [72, 4],
  [76, 1],
  [78, 1],
  [84, 4],
  [AT.verify, 1],
] as const;
const BLOCK_CRC_INITIAL = 100_007;

/** Changes fields, index entries or blocks of a ZFile, and most of the time makes the checksums right again. */
export function mutateZFile(file: Buffer, random: Random, other: Buffer): Buffer {
  const index = indexOf(file);
  const hot = [[0, 96], [file.length - HEADER, file.length - HEADER + 96], ...index] as const;
  let changed: Buffer = Buffer.from(file);
  if (random.oneIn(2)) {
    for (let changes = 1 + random.below(2); changes > 0; changes--) changeField(changed, random);
  } else {
    changed = mutate(changed, random, { other, hot });
  }
  if (!random.oneIn(4)) restoreChecksums(changed, !random.oneIn(3));
  return changed;
}

function changeField(file: Buffer, random: Random): void {
  const start = random.oneIn(2) ? 0 : file.length - HEADER;
  const [at, width] = random.pick(FIELDS);
  const number = oddNumber(random, width * 8);
  for (let i = 0; i < width; i++) file[start + at + i] = Number((number >> BigInt(8 * i)) & 0xffn);
}

function restoreChecksums(file: Buffer, blocksToo: boolean): void {
  if (file.length < 2 * HEADER) return;
  for (const start of [0, file.length - HEADER]) {
    const header = file.subarray(start, start + HEADER);
    const [index] = indexRange(header, file.length);
    if (blocksToo && index !== undefined) restoreBlocks(file, header, file.subarray(...index));
    if (index !== undefined) header.writeUInt32LE(crc32c(file.subarray(...index), 0), AT.indexCrc);
    header.writeUInt32LE(0, AT.digest);
    header.writeUInt32LE(crc32c(header, 0), AT.digest);
  }
}

function restoreBlocks(file: Buffer, header: Buffer, index: Buffer): void {
  if (header[AT.verify] === 0) return;
  let at = HEADER;
  for (let entry = 0; entry + 4 <= index.length; entry += 4) {
    const end = at + index.readUInt32LE(entry);
    if (end - at <= 4 || end > file.length) return;
    file.writeUInt32LE(crc32c(file.subarray(at, end - 4), BLOCK_CRC_INITIAL), end - 4);
    at = end;
  }
}

function indexOf(file: Buffer): (readonly [number, number])[] {
  return [file.subarray(0, HEADER), file.subarray(file.length - HEADER)].flatMap((header) =>
    indexRange(header, file.length),
  );
}

/** Where the index is that a header or trailer names, if it is inside the file. */
function indexRange(header: Buffer, fileBytes: number): (readonly [number, number])[] {
  const start = Number(header.readBigUInt64LE(AT.indexOffset));
  const end = start + 4 * Number(header.readBigUInt64LE(AT.indexEntries));
  return start >= HEADER && end > start && end <= fileBytes ? [[start, end]] : [];
}
