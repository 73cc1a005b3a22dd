import { gzipSync, constants as zlib, zstdCompressSync } from 'node:zlib';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { randomBytes } from '../../test/support/random-bytes.ts';
import { decoderOf } from './decoder-of.ts';
import { FormatError } from './errors.ts';
import { GzipDecoder } from './gzip-decoder.ts';
import { loadIsal, zlibInflater } from './inflate.ts';
import { ownSpace, type StreamDecoder } from './stream-decoder.ts';
import { ZstdDecoder } from './zstd-decoder.ts';

const TEXT = Buffer.from('a layer of many words, '.repeat(40_000));
const NOISE = randomBytes(300_000, 1);

/** Feeds the stream in pieces that end at `cuts`. */
function decode(decoder: StreamDecoder, stream: Buffer, cuts: readonly number[] = []): Buffer {
  const pieces: Buffer[] = [];
  let at = 0;
  try {
    for (const cut of [...cuts.toSorted((a, b) => a - b), stream.length]) {
      decoder.write(stream.subarray(at, cut), (bytes) => pieces.push(Buffer.from(bytes)));
      at = Math.max(at, cut);
    }
    decoder.finish();
  } finally {
    decoder.close();
  }
  return Buffer.concat(pieces);
}

function everyByte(stream: Buffer): number[] {
  return [...stream.keys()];
}

function errorOf(decoder: StreamDecoder, stream: Buffer): string {
  try {
    decode(decoder, stream);
  } catch (error) {
    if (error instanceof FormatError) return `${error.code}: ${error.message}`;
    throw error;
  }
  return 'no error';
}

/** A gzip header with all of the optional fields (RFC 1952, 2.3), in front of an ordinary member's data. */
function withAllFields(member: Buffer): Buffer {
  const extra = Buffer.from([6, 0, 0x53, 0x47, 2, 0, 1, 2]);
  const header = Buffer.concat([
    Buffer.from([0x1f, 0x8b, 8, 0x1c, 0, 0, 0, 0, 0, 255]),
    extra,
    Buffer.from('a name\0a comment\0'),
  ]);
  return Buffer.concat([header, member.subarray(10)]);
}

describe.each([
  ['ISA-L', loadIsal()],
  ['zlib', zlibInflater],
])('gzip by %s', (_library, create) => {
  const decoder = () => new GzipDecoder(ownSpace(), create());

  test.each([
    ['nothing', Buffer.alloc(0)],
    ['a byte', Buffer.from('x')],
    ['text', TEXT],
    ['noise', NOISE],
    ['zeros', Buffer.alloc(3_000_000)],
  ])('a member of %s is decompressed', (_name, data) => {
    for (const level of [0, 1, 6, 9]) {
      expect(decode(decoder(), gzipSync(data, { level })).equals(data)).toBe(true);
    }
  });

  test('a member that comes byte by byte is the same', () => {
    const stream = gzipSync(TEXT.subarray(0, 5000));
    expect(decode(decoder(), stream, everyByte(stream)).equals(TEXT.subarray(0, 5000))).toBe(true);
  });

  test('members one after the other are one stream, wherever it is cut', () => {
    const part = fc
      .record({ length: fc.nat(60_000), level: fc.integer({ min: 0, max: 9 }), isNoise: fc.boolean() })
      .map(({ length, level, isNoise }) => {
        const data = (isNoise ? NOISE : TEXT).subarray(0, length);
        return { data, member: gzipSync(data, { level }) };
      });
    fc.assert(
      fc.property(
        fc.array(part, { minLength: 1, maxLength: 6 }),
        fc.array(fc.double({ min: 0, max: 1, noNaN: true }), { maxLength: 12 }),
        (parts, cuts) => {
          const stream = Buffer.concat(parts.map(({ member }) => member));
          const expected = Buffer.concat(parts.map(({ data }) => data));
          const at = cuts.map((cut) => Math.floor(cut * stream.length));
          expect(decode(decoder(), stream, at).equals(expected)).toBe(true);
        },
      ),
      { numRuns: 150 },
    );
  });

  test('short members are the same whatever two pieces they come in', () => {
    const stream = Buffer.concat(['one', '', 'two two two two', 'three'].map((text) => gzipSync(text)));
    for (const cut of everyByte(stream)) {
      expect(decode(decoder(), stream, [cut]).toString()).toBe('onetwo two two twothree');
    }
  });

  test('the optional fields of a header are passed over', () => {
    const stream = withAllFields(gzipSync('content'));
    for (const cut of everyByte(stream)) {
      expect(decode(decoder(), stream, [cut]).toString()).toBe('content');
    }
  });

  test('a stream that is cut short is an error, wherever that is but between members', () => {
    const first = gzipSync('first');
    const stream = Buffer.concat([first, gzipSync('second')]);
    for (let length = 0; length < stream.length; length++) {
      const outcome = errorOf(decoder(), stream.subarray(0, length));
      if (length === first.length) expect(outcome).toBe('no error');
      else
        expect(outcome, `at ${length}`).toContain('ERR_STREAM_CORRUPT: the gzip stream ends in the middle');
    }
  });

  test.each([
    ['its checksum', -8],
    ['its length', -4],
    ['its method', 2],
    ['its magic number', 0],
  ])('a member with a bit of %s flipped is an error', (_what, at) => {
    const stream = gzipSync(TEXT);
    const index = at < 0 ? stream.length + at : at;
    stream[index] = stream[index]! ^ 1;
    expect(errorOf(decoder(), stream)).toContain('ERR_STREAM_CORRUPT');
  });

  test.each([
    ['zeros', Buffer.alloc(512)],
    ['garbage', Buffer.from('garbage, and more than a header of it')],
  ])('%s behind the last member are an error', (_name, tail) => {
    expect(errorOf(decoder(), Buffer.concat([gzipSync('content'), tail]))).toContain('ERR_STREAM_CORRUPT');
  });
});

describe('zstd', () => {
  const compress = (data: Buffer | string, checksumFlag = 1) =>
    zstdCompressSync(data, { params: { [zlib.ZSTD_c_checksumFlag]: checksumFlag } });
  const SKIPPABLE = Buffer.concat([Buffer.from([0x5e, 0x2a, 0x4d, 0x18, 5, 0, 0, 0]), Buffer.from('extra')]);

  test('frames and skippable frames are one stream, wherever it is cut', () => {
    const parts = [
      'one',
      '',
      'two two two two',
      TEXT.toString().slice(0, 700),
      NOISE.toString('latin1', 0, 300),
    ];
    const stream = Buffer.concat([SKIPPABLE, ...parts.flatMap((part) => [compress(part), SKIPPABLE])]);
    for (const cut of everyByte(stream)) {
      expect(decode(new ZstdDecoder(), stream, [cut]).toString()).toBe(parts.join(''));
    }
  });

  test('long frames are decompressed', () => {
    for (const data of [TEXT, NOISE, Buffer.alloc(3_000_000)]) {
      expect(decode(new ZstdDecoder(), compress(data)).equals(data)).toBe(true);
    }
  });

  test('a stream that is cut short is an error', () => {
    const stream = compress('a frame with some content');
    for (let length = 0; length < stream.length; length++) {
      expect(errorOf(new ZstdDecoder(), stream.subarray(0, length))).toContain('ends in the middle');
    }
  });

  test('a frame with a wrong checksum is an error', () => {
    const stream = compress(TEXT);
    stream[stream.length - 1] = stream.at(-1)! ^ 1;
    expect(errorOf(new ZstdDecoder(), stream)).toContain('ERR_STREAM_CORRUPT');
  });

  test('garbage behind a frame is an error', () => {
    const stream = Buffer.concat([compress('content'), Buffer.from('garbage')]);
    expect(errorOf(new ZstdDecoder(), stream)).toContain('ERR_STREAM_CORRUPT');
  });

  test('a frame with a window of more than 128 MiB is refused, one of 128 MiB is not', () => {
    const withWindowLog = (log: number) => Buffer.from([0x28, 0xb5, 0x2f, 0xfd, 0, (log - 10) << 3, 1, 0, 0]);
    expect(errorOf(new ZstdDecoder(), withWindowLog(27))).toBe('no error');
    expect(errorOf(new ZstdDecoder(), withWindowLog(28))).toContain('ERR_STREAM_CORRUPT');
  });
});

test('the first bytes tell how a stream is compressed', () => {
  const format = (bytes: readonly number[]) => {
    const decoder = decoderOf(Buffer.from(bytes));
    decoder.close();
    return decoder.format;
  };
  expect(format([0x1f, 0x8b, 8, 0])).toBe('gzip');
  expect(format([0x28, 0xb5, 0x2f, 0xfd])).toBe('zstd');
  expect(format([0x50, 0x2a, 0x4d, 0x18])).toBe('zstd');
  expect(format([0x5f, 0x2a, 0x4d, 0x18])).toBe('zstd');
  expect(format([0x60, 0x2a, 0x4d, 0x18])).toBe('none');
  expect(format([0x2e, 0x2f, 0, 0])).toBe('none');
  expect(format([])).toBe('none');
});
