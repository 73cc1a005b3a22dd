import { createHash } from 'node:crypto';
import { crc32, gzipSync, inflateRawSync, constants as zlib, zstdCompressSync } from 'node:zlib';
import { GzipDecoder } from '../../src/format/gzip-decoder.ts';
import { loadIsal, zlibInflater } from '../../src/format/inflate.ts';
import { ownSpace, type StreamDecoder } from '../../src/format/stream-decoder.ts';
import { ZstdDecoder } from '../../src/format/zstd-decoder.ts';
import { mutate, type Range } from './mutate.ts';
import { Random } from './random.ts';
import { type FuzzTarget, isTyped, Violation } from './target.ts';

/** What the decoders hand on at a time: the most interesting length of a content. */
const OUTPUT_BYTES = 256 * 1024;
/** Enough for any content of the corpus; a mutation may ask for a thousand times its input. */
const MAX_OUTPUT_BYTES = 64 * 1024 * 1024;

/** gzip by both libraries: the same in pieces of any size, and the same by both. */
export function gzipTarget(): FuzzTarget {
  const isal = loadIsal();
  const contents = corpusContents();
  const members = contents.map((content) => gzipSync(content));
  const second = contents[1]!;
  return streamTarget({
    known: new Map([
      ...members.map((member, i) => [member, contents[i]!] as const),
      [
        Buffer.concat([...members, ...members.slice(0, 2)]),
        Buffer.concat([...contents, ...contents.slice(0, 2)]),
      ],
      [withHeaderFields(second), second],
      [bgzip(second), second],
    ]),
    decoders: [() => new GzipDecoder(ownSpace(), isal()), () => new GzipDecoder(ownSpace(), zlibInflater())],
    acceptsByPieces: true,
    mutateStream(input, random, other) {
      const changed = mutate(input, random, { other, hot: hotEnds(input, 30) });
      return random.oneIn(3) ? changed : withTrailer(changed);
    },
  });
}

/** zstd, in the same way. */
export function zstdTarget(): FuzzTarget {
  const contents = corpusContents();
  const frames = contents.map((content, i) =>
    zstdCompressSync(content, {
      params: { [zlib.ZSTD_c_checksumFlag]: i % 2, [zlib.ZSTD_c_compressionLevel]: 1 + i },
    }),
  );
  const skippable = Buffer.concat([Buffer.from([0x5e, 0x2a, 0x4d, 0x18, 5, 0, 0, 0]), Buffer.from('chunk')]);
  return streamTarget({
    known: new Map([
      ...frames.map((frame, i) => [frame, contents[i]!] as const),
      [Buffer.concat([skippable, ...frames, skippable]), Buffer.concat(contents)],
    ]),
    decoders: [() => new ZstdDecoder()],
    // The library looks less closely at frames that come in pieces: an empty block of a kind that must not be empty.
    acceptsByPieces: false,
    mutateStream: (input, random, other) => mutate(input, random, { other, hot: hotEnds(input, 18) }),
  });
}

interface Codec {
  /** Streams and what they hold. */
  readonly known: ReadonlyMap<Buffer, Buffer>;
  readonly decoders: readonly (() => StreamDecoder)[];
  /** Whether a stream is refused or not, however it is cut. */
  readonly acceptsByPieces: boolean;
  readonly mutateStream: FuzzTarget['mutate'];
}

function streamTarget({ known, decoders, acceptsByPieces, mutateStream }: Codec): FuzzTarget {
  return {
    corpus: [...known.keys()],
    mutate: mutateStream,
    run(input, random) {
      const readings = decoders.map((create) => {
        const whole = decoded(create(), input, () => input.length);
        const pieces = decoded(create(), input, () => 1 + random.below(random.pick([2, 100, 70_000])));
        if (acceptsByPieces && (whole.error === null) !== (pieces.error === null)) {
          throw new Violation(`in one, it ends with ${whole.error}; in pieces, with ${pieces.error}`);
        }
        return [whole, pieces];
      });
      const digests = readings.flat().flatMap(({ error, digest }) => (error === null ? [digest] : []));
      const content = known.get(input);
      const expected = content === undefined ? digests[0] : createHash('sha1').update(content).digest('hex');
      if (digests.some((digest) => digest !== expected)) throw new Violation('readings differ');
      const [refusal] = readings[0]!.flatMap(({ error }) => error ?? []);
      if (refusal !== undefined) throw refusal;
    },
  };
}

interface Reading {
  readonly digest: string;
  readonly error: Error | null;
}

function decoded(decoder: StreamDecoder, input: Buffer, nextLength: () => number): Reading {
  const hash = createHash('sha1');
  let error: Error | null = null;
  try {
    for (let at = 0; at < input.length; ) {
      const piece = Buffer.from(input.subarray(at, at + nextLength()));
      decoder.write(piece, (output) => {
        if (output.length === 0 || output.length > OUTPUT_BYTES)
          throw new Violation(`a piece of ${output.length} bytes`);
        hash.update(output);
      });
      at += piece.length;
      // Whoever reads it again is found out.
      piece.fill(0xa5);
    }
    decoder.finish();
  } catch (cause) {
    if (!isTyped(cause)) throw cause;
    error = cause;
  } finally {
    decoder.close();
  }
  return { digest: hash.digest('hex'), error };
}

function hotEnds(stream: Buffer, headerBytes: number): Range[] {
  return [
    [0, headerBytes],
    [Math.max(0, stream.length - 12), stream.length],
  ];
}

/** Makes checksum and size of a gzip stream of one member with a short header right, as far as its data can be read. */
function withTrailer(stream: Buffer): Buffer {
  try {
    const content = inflateRawSync(stream.subarray(10, -8), { maxOutputLength: MAX_OUTPUT_BYTES });
    const trailer = Buffer.alloc(8);
    trailer.writeUInt32LE(crc32(content));
    trailer.writeUInt32LE(content.length, 4);
    return Buffer.concat([stream.subarray(0, -8), trailer]);
  } catch {
    return stream;
  }
}

/** Short, long, of just the length of what decoders hand on, and more; that shrink well, hardly and not at all. */
function corpusContents(): Buffer[] {
  const random = new Random('stream');
  const words = Buffer.from('layer of many words, '.repeat(3000));
  return [
    Buffer.from('x'),
    Buffer.concat([words, random.bytes(20_000), Buffer.alloc(30_000)]),
    Buffer.alloc(OUTPUT_BYTES, 'just as long'),
    Buffer.concat([random.bytes(1000), Buffer.alloc(2 * OUTPUT_BYTES, words)]),
  ];
}

/**
 * All optional header fields (RFC 1952, 2.3) but the header's own checksum, which nobody writes: ISA-L finds it wrong
 * where the header comes in pieces.
 */
function withHeaderFields(content: Buffer): Buffer {
  const start = Buffer.from([0x1f, 0x8b, 8, 0x1c, 0, 0, 0, 0, 0, 255, 6, 0, 0x53, 0x47, 2, 0, 1, 2]);
  const member = gzipSync(content);
  return Buffer.concat([start, Buffer.from('a name\0a comment\0'), member.subarray(10)]);
}

/** Many short members, the last of them empty. */
function bgzip(content: Buffer): Buffer {
  const members: Buffer[] = [];
  for (let at = 0; at <= content.length; at += 9000) members.push(gzipSync(content.subarray(at, at + 9000)));
  return Buffer.concat([...members, gzipSync('')]);
}
