import { expect, test } from 'vitest';
import { crc32c } from './crc32c.ts';

const text = Buffer.from('123456789');

test('with both inversions it is the CRC-32C that RFC 3720 gives test vectors for', () => {
  const standard = (bytes: Buffer): number => ~crc32c(bytes, 0xffff_ffff) >>> 0;
  expect(standard(text)).toBe(0xe306_9283);
  expect(standard(Buffer.alloc(32))).toBe(0x8a91_36aa);
  expect(standard(Buffer.alloc(32, 0xff))).toBe(0x62a8_ab43);
});

test('the initial value is used as it is and the result is not inverted', () => {
  expect(crc32c(Buffer.alloc(0), 100_007)).toBe(100_007);
  expect(crc32c(Buffer.alloc(8), 0)).toBe(0);
});

test('a checksum can be continued', () => {
  expect(crc32c(text.subarray(4), crc32c(text.subarray(0, 4), 100_007))).toBe(crc32c(text, 100_007));
});
