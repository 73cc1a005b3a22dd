/** What the codecs, the checksum and the merged index cost on this machine, in one thread. */
import { readFileSync } from 'node:fs';
import { BufferSource } from '../src/format/buffer-source.ts';
import { findSegment, mergeSegments, type SegmentTable } from '../src/format/segments.ts';
import type { BlockOptions } from '../src/format/zfile-blocks.ts';
import { ZFileReader } from '../src/format/zfile-reader.ts';
import { WRITABLE_BLOCK_SIZES, ZFileWriter } from '../src/format/zfile-writer.ts';

const SAMPLE_BYTES = 32 * 1024 * 1024;
const READ_BYTES = 256 * 1024;
const SEGMENTS = 1_000_000;
const LOOKUPS = 2_000_000;
const ROUNDS = 3;

/** Milliseconds of this process's CPU time, the best of several rounds: others may use this machine, too. */
async function best(run: () => void | Promise<void>): Promise<number> {
  let least = Number.POSITIVE_INFINITY;
  for (let round = 0; round < ROUNDS; round++) {
    const start = process.cpuUsage();
    await run();
    const { user, system } = process.cpuUsage(start);
    least = Math.min(least, (user + system) / 1000);
  }
  return least;
}

/** Machine code and text, as in images: the middle of this Node binary. */
function sample(): Buffer {
  const binary = readFileSync(process.execPath);
  const start = Math.max(0, (binary.length - SAMPLE_BYTES) >> 1);
  return binary.subarray(start, start + SAMPLE_BYTES);
}

function compress(data: Buffer, options: BlockOptions, write: (bytes: Buffer) => void): number {
  const writer = new ZFileWriter({ write }, options);
  writer.write(data);
  return writer.finish().sizeBytes;
}

async function benchCodec(data: Buffer, options: BlockOptions): Promise<void> {
  const packing = await best(() => void compress(data, options, () => {}));
  const pieces: Buffer[] = [];
  const ratio = compress(data, options, (bytes) => pieces.push(Buffer.from(bytes))) / data.length;
  const reader = await ZFileReader.open(new BufferSource(Buffer.concat(pieces)));
  const target = Buffer.alloc(READ_BYTES);
  const unpacking = await best(async () => {
    for (let at = 0; at + READ_BYTES <= data.length; at += READ_BYTES) await reader.read(at, target);
  });
  const speed = (ms: number): string => (data.length / 1000 / ms).toFixed(0).padStart(10);
  const label = `${options.algorithm} ${options.blockSize / 1024} KiB`.padEnd(16);
  console.log(`${label}${speed(packing)}${speed(unpacking)}${ratio.toFixed(3).padStart(10)}`);
}

/** Segments with gaps, shifted so that layers cut each other's. */
function layer(count: number, shift: number): SegmentTable {
  const spread = Math.floor((SEGMENTS / count) * 16);
  return {
    count,
    lba: Float64Array.from({ length: count }, (_, i) => i * spread + shift),
    length: new Uint16Array(count).fill(12),
    data: Float64Array.from({ length: count }, (_, i) => 8 + ((i * 7919) % count) * 12),
    zeroed: new Uint8Array(count),
  };
}

async function benchMerge(layers: number): Promise<void> {
  const tables = Array.from({ length: layers }, (_, i) => layer(Math.floor(SEGMENTS / layers), i * 13));
  let merged = mergeSegments([]);
  const merging = await best(() => {
    merged = mergeSegments(tables);
  });
  const end = merged.lba[merged.count - 1]!;
  const sectors = Float64Array.from({ length: LOOKUPS }, () => Math.floor(Math.random() * end));
  const looking = await best(() => {
    for (const sector of sectors) findSegment(merged, sector);
  });
  console.log(
    `merge of ${SEGMENTS} segments in ${layers} layers: ${merging.toFixed(0)} ms, gives ${merged.count}; ` +
      `${(LOOKUPS / 1000 / looking).toFixed(1)} million random look-ups/s`,
  );
}

const data = sample();
console.log('ZFile with CRC    compress    expand     ratio   (MB/s)');
for (const algorithm of ['lz4', 'zstd'] as const) {
  for (const blockSize of WRITABLE_BLOCK_SIZES) await benchCodec(data, { algorithm, blockSize });
}
for (const layers of [2, 16, 250]) await benchMerge(layers);
