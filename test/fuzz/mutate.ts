import type { Random } from './random.ts';

/** Bytes from `start` to `end` of an input: where the numbers stand that decide sizes and places. */
export type Range = readonly [start: number, end: number];

const BYTES = [0, 1, 2, 4, 7, 8, 0x1f, 0x20, 0x2f, 0x30, 0x7f, 0x80, 0xfe, 0xff];
const NUMBERS = [
  0n,
  1n,
  2n,
  3n,
  4n,
  0x7fn,
  0xffn,
  0x100n,
  511n,
  512n,
  513n,
  4095n,
  4096n,
  4097n,
  0x7fffn,
  0xffffn,
  0x1_0000n,
  0x7fff_ffffn,
  0x8000_0000n,
  0xffff_ffffn,
  0x1_0000_0000n,
  2n ** 50n - 1n,
  2n ** 53n - 1n,
  2n ** 53n,
  2n ** 63n - 1n,
  2n ** 63n,
  2n ** 64n - 1n,
];
const MAX_CHANGES = 4;
const MAX_PIECE_BYTES = 2048;

/**
 * A copy of `input` with one to four changes: bits, bytes and numbers of interest, pieces taken away, doubled,
 * moved or taken from `other`. Two of three changes are made inside `hot`, if it is given. The length stays when `keepLength` says so.
 */
export function mutate(
  input: Buffer,
  random: Random,
  options: { readonly other?: Buffer; readonly hot?: readonly Range[]; readonly keepLength?: boolean } = {},
): Buffer {
  let bytes: Buffer = Buffer.from(input);
  for (let changes = 1 + random.below(MAX_CHANGES); changes > 0 && bytes.length > 0; changes--) {
    const at = position(bytes.length, random, options.hot ?? []);
    const isLong = !options.keepLength && random.oneIn(4);
    bytes = isLong
      ? changeLength(bytes, at, random, options.other ?? input)
      : changeInPlace(bytes, at, random);
  }
  return bytes;
}

/** A number that readers may have forgotten to think of, of up to `bits` bits. */
export function oddNumber(random: Random, bits: number): bigint {
  const number = random.pick(NUMBERS) + BigInt(random.below(3) - 1);
  return BigInt.asUintN(bits, number);
}

function position(length: number, random: Random, hot: readonly Range[]): number {
  if (hot.length > 0 && !random.oneIn(3)) {
    const [start, end] = random.pick(hot);
    return Math.min(length - 1, start + random.below(end - start));
  }
  return random.below(length);
}

function changeInPlace(bytes: Buffer, at: number, random: Random): Buffer {
  switch (random.below(6)) {
    case 0:
      bytes[at] = bytes[at]! ^ (1 << random.below(8));
      break;
    case 1:
      bytes[at] = random.pick(BYTES);
      break;
    case 2:
    case 3:
      writeNumber(bytes, at, random.pick([2, 4, 8]), oddNumber(random, 64));
      break;
    case 4: {
      const width = random.pick([1, 2, 4]);
      const aligned = Math.min(at - (at % width), Math.max(0, bytes.length - width));
      if (aligned + width > bytes.length) break;
      const moved = bytes.readUIntLE(aligned, width) + random.below(65) - 32;
      writeNumber(bytes, aligned, width, BigInt(moved));
      break;
    }
    default:
      bytes.fill(random.pick(BYTES), at, Math.min(bytes.length, at + 1 + random.below(64)));
      break;
  }
  return bytes;
}

function writeNumber(bytes: Buffer, at: number, width: number, value: bigint): void {
  const start = at - (at % width);
  if (start + width > bytes.length) return;
  for (let i = 0, rest = BigInt.asUintN(64, value); i < width; i++, rest >>= 8n) {
    bytes[start + i] = Number(rest & 0xffn);
  }
}

function changeLength(bytes: Buffer, at: number, random: Random, other: Buffer): Buffer {
  const unit = random.pick([1, 4, 16, 512, 4096]);
  const start = at - (at % unit);
  const length = Math.min(bytes.length - start, unit * (1 + random.below(Math.ceil(MAX_PIECE_BYTES / unit))));
  switch (random.below(5)) {
    case 0:
      return bytes.subarray(0, start);
    case 1:
      return Buffer.concat([bytes.subarray(0, start), bytes.subarray(start + length)]);
    case 2:
      return Buffer.concat([bytes.subarray(0, start + length), bytes.subarray(start)]);
    case 3: {
      const from = random.below(bytes.length);
      bytes.copyWithin(start, from, Math.min(bytes.length, from + length));
      return bytes;
    }
    default: {
      const from = random.below(other.length);
      const piece = other.subarray(from - (from % unit), from - (from % unit) + length);
      return Buffer.concat([
        bytes.subarray(0, start),
        piece,
        bytes.subarray(start + (random.oneIn(2) ? length : 0)),
      ]);
    }
  }
}
