import type { ByteSource } from '../../src/format/byte-source.ts';
import type { Random } from './random.ts';

const MAX_READ_BYTES = 1 << 20;
const READS = 4;

/** Reads the start of a source, its end, and a few places between: a source may claim any size. */
export async function readBounded(source: ByteSource, random: Random): Promise<void> {
  if (source.size === 0) return;
  const length = Math.min(source.size, MAX_READ_BYTES);
  await source.read(0, Buffer.alloc(length));
  const short = Math.min(length, 8192);
  await source.read(source.size - short, Buffer.alloc(short));
  for (let reads = 0; reads < READS; reads++) {
    const part = 1 + random.below(short);
    await source.read(random.below(source.size - part + 1), Buffer.alloc(part));
  }
}
