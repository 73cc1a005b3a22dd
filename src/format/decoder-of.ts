import { GzipDecoder } from './gzip-decoder.ts';
import { ownSpace, type StreamDecoder } from './stream-decoder.ts';
import { ZstdDecoder } from './zstd-decoder.ts';

const GZIP_MAGIC = Buffer.from([0x1f, 0x8b]);
const ZSTD_MAGIC = Buffer.from([0x28, 0xb5, 0x2f, 0xfd]);
/** Skippable frames have 16 magic numbers, 0x184D2A50 to 0x184D2A5F (RFC 8878, 3.1.2). */
const ZSTD_SKIPPABLE_MAGIC = Buffer.from([0x2a, 0x4d, 0x18]);

/**
 * The decoder for a stream that begins with `start` (4 bytes or more, unless it is shorter). As containerd does it: the bytes
 * decide, since media types are wrong now and then.
 */
export function decoderOf(start: Buffer, space = ownSpace()): StreamDecoder {
  if (start.subarray(0, 2).equals(GZIP_MAGIC)) return new GzipDecoder(space);
  const isSkippable = start.subarray(1, 4).equals(ZSTD_SKIPPABLE_MAGIC) && ((start[0] ?? 0) & 0xf0) === 0x50;
  if (start.subarray(0, 4).equals(ZSTD_MAGIC) || isSkippable) return new ZstdDecoder(space);
  return { format: 'none', write: (input, output) => output(input), finish: () => {}, close: () => {} };
}
