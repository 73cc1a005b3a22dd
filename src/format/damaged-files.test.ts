import { expect, test } from 'vitest';
import { type Golden, golden } from '../../test/support/golden.ts';
import { BufferSource } from './buffer-source.ts';
import { SourceError } from './byte-source.ts';
import { FormatError } from './errors.ts';
import { LsmtLayer } from './lsmt-layer.ts';
import { MergedDevice } from './merged-device.ts';
import { openLayerBlob } from './overlaybd-tar.ts';

const FILES = [
  'zfile/small.lz4-4096.crc.ow.tar.zfile',
  'zfile/small.lz4-4096.nocrc.zfile',
  'zfile/small.zstd-4096.nocrc.zfile',
  'zfile/small.zstd-65536.crc.zfile',
  'lsmt/fixed.L3.obd',
  'lsmt/rand2.L4.obd',
  'lsmt/rand1.L4.obd',
  'ext4/layer3.raw-lsmt.obd',
];
const ROUNDS = 400;
const INTERESTING = [0, 1, 4, 8, 0x7f, 0x80, 0xff];

/** A seeded sequence of numbers below a bound (xorshift). */
function randomNumbers(seed: number): (below: number) => number {
  let state = seed;
  return (below) => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) % below;
  };
}

/** Where the numbers are that decide sizes and places: headers, indexes, trailers, rather than data. */
function somewhere(length: number, random: (below: number) => number): number {
  const span = Math.min(length, random(2) === 0 ? 600 : 9000);
  switch (random(3)) {
    case 0:
      return random(span);
    case 1:
      return length - 1 - random(span);
    default:
      return random(length);
  }
}

function damage(bytes: Buffer, random: (below: number) => number): Buffer {
  const copy = Buffer.from(bytes);
  for (let changes = 1 + random(4); changes > 0; changes--) {
    const at = somewhere(copy.length, random);
    if (random(2) === 0) copy[at] = INTERESTING[random(INTERESTING.length)]!;
    else copy[at]! ^= 1 << random(8);
  }
  return random(10) === 0 ? copy.subarray(0, random(copy.length)) : copy;
}

/** With the flag cleared that says there are checksums of headers and index: damage then gets past them. */
function withoutDigests({ sidecar, bytes }: Golden): Buffer {
  const info = sidecar.obd_info!;
  const copy = Buffer.from(bytes());
  if (info.zfile === undefined) return copy;
  const start = info.tar_wrapped ? 1536 : 0;
  const end = start + (info.tar?.inner_size ?? copy.length);
  copy[start + 32]! &= ~16;
  copy[end - 512 + 32]! &= ~16;
  return copy;
}

/** Opens and reads, but no more than 4 MiB of what claims to be larger. */
async function readThrough(bytes: Buffer, holdsLsmt: boolean): Promise<void> {
  const inner = await openLayerBlob(new BufferSource(bytes));
  await inner.read(0, Buffer.alloc(Math.min(inner.size, 4 << 20)));
  if (!holdsLsmt) return;
  const device = MergedDevice.open([await LsmtLayer.open(inner)]);
  await device.read(0, Buffer.alloc(Math.min(device.size, 4 << 20)));
}

test.each(FILES.map((name, i) => [name, i + 1] as const))(
  'damage to %s ends in a FormatError, a SourceError or data, never in anything else',
  async (name, seed) => {
    const random = randomNumbers(seed * 2_654_435_761);
    const file = golden(name);
    const originals = [file.bytes(), withoutDigests(file)];
    const holdsLsmt = file.sidecar.obd_info!.lsmt !== undefined;
    for (const original of originals) await readThrough(original, holdsLsmt);
    let refused = 0;
    for (let round = 0; round < ROUNDS; round++) {
      try {
        await readThrough(damage(originals[round % 2]!, random), holdsLsmt);
      } catch (error) {
        if (!(error instanceof FormatError || error instanceof SourceError)) throw error;
        refused++;
      }
    }
    expect(refused).toBeGreaterThan(ROUNDS / 20);
  },
  20_000,
);
