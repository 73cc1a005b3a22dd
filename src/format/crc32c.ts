import { crc32c as standardCrc32c } from '@node-rs/crc32';

/**
 * CRC-32C (Castagnoli, reflected) as disk formats use it: starts from `initial` as it is and does not invert
 * the result, so that `crc32c(b, crc32c(a, i))` is the checksum of a followed by b.
 */
export function crc32c(bytes: Buffer, initial: number): number {
  return ~standardCrc32c(bytes, ~initial >>> 0) >>> 0;
}
