import { randomBytes } from 'node:crypto';
import { describe, expect, test } from 'vitest';
import { type Algorithm, blockCodec } from './block-codec.ts';
import { loadLibrary } from './native.ts';

describe.each<Algorithm>(['lz4', 'zstd'])('%s', (algorithm) => {
  const codec = blockCodec(algorithm);
  const original = Buffer.from('what compresses well, '.repeat(300));
  const packed = Buffer.alloc(codec.bound(original.length));
  const length = codec.compress(original, packed);

  test('makes a block smaller and restores it', () => {
    expect(length).toBeLessThan(original.length / 10);
    const restored = Buffer.alloc(original.length);
    expect(codec.decompress(packed.subarray(0, length), restored)).toBe(original.length);
    expect(restored.equals(original)).toBe(true);
  });

  test('keeps within its bound with data that does not compress', () => {
    const noise = randomBytes(65_536);
    const target = Buffer.alloc(codec.bound(noise.length));
    expect(codec.compress(noise, target)).toBeGreaterThan(noise.length);
  });

  test('writes nothing outside the target, and says so if it is too small', () => {
    const room = Buffer.alloc(200, 0xee);
    expect(() => codec.compress(randomBytes(1000), room.subarray(50, 150))).toThrowError(RangeError);
    expect(() => codec.decompress(packed.subarray(0, length), room.subarray(50, 150))).toThrowError(
      expect.objectContaining({ code: 'ERR_ZFILE_CORRUPT' }),
    );
    expect(Buffer.concat([room.subarray(0, 50), room.subarray(150)]).every((byte) => byte === 0xee)).toBe(
      true,
    );
  });

  test.each([
    ['nothing', Buffer.alloc(0)],
    ['noise', randomBytes(1000)],
    ['a block cut short', packed.subarray(0, length - 5)],
  ])('does not restore a block from %s', (_what, junk) => {
    const target = Buffer.alloc(original.length);
    let restored = -1;
    try {
      restored = codec.decompress(junk, target);
    } catch (error) {
      expect(error).toMatchObject({ code: 'ERR_ZFILE_CORRUPT' });
    }
    expect(restored).not.toBe(original.length);
  });
});

test('a missing library is reported with the package that has it', () => {
  expect(() => loadLibrary('libnowhere.so.9', 'libnowhere9')).toThrowError(
    expect.objectContaining({
      code: 'ERR_NATIVE_LIBRARY',
      message: expect.stringContaining('apt-get install libnowhere9'),
    }),
  );
});
