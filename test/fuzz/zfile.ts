import { BufferSource } from '../../src/format/buffer-source.ts';
import { ZFileReader } from '../../src/format/zfile-reader.ts';
import { ZFileWriter } from '../../src/format/zfile-writer.ts';
import { golden } from '../support/golden.ts';
import { MemorySink } from '../support/sinks.ts';
import { Random } from './random.ts';
import { readBounded } from './read-bounded.ts';
import { type FuzzTarget, Violation } from './target.ts';
import { mutateZFile } from './zfile-bytes.ts';

const GOLDEN = [
  'small.lz4-4096.crc.zfile',
  'small.lz4-4096.nocrc.zfile',
  'small.lz4-65536.crc.zfile',
  'small.zstd-4096.crc.zfile',
  'small.zstd-16384.nocrc.zfile',
  'exact64k.zstd-4096.crc.zfile',
];

/** Header, index and blocks of a ZFile, with right checksums and with wrong ones. */
export function zfileTarget(): FuzzTarget {
  return {
    corpus: [...GOLDEN.map((name) => golden(`zfile/${name}`).bytes()), ...written()],
    mutate: mutateZFile,
    async run(input, random) {
      await readBounded(await ZFileReader.open(new BufferSource(input)), random);
    },
  };
}

/**
 * Damage to the blocks and the index only, in ZFiles with checksums: what is read is what was written, or the
 * read fails.
 */
export function zfileIntegrityTarget(): FuzzTarget {
  const originals = written();
  const contents = new Map(originals.map((file, i) => [marked(file), content(i)]));
  return {
    corpus: originals,
    mutate(input, random) {
      const changed = Buffer.from(input);
      const body = changed.subarray(512, changed.length - 512);
      switch (random.below(4)) {
        case 0:
          body.fill(0, random.below(body.length), body.length);
          break;
        case 1: {
          const at = random.below(body.length);
          body.copyWithin(random.below(body.length), at, at + random.below(5000));
          break;
        }
        default:
          for (let flips = 1 + random.below(4); flips > 0; flips--)
            body[random.below(body.length)]! ^= 1 << random.below(8);
          break;
      }
      return changed;
    },
    async run(input, random) {
      const expected = contents.get(marked(input));
      if (expected === undefined) throw new Violation('the header was changed');
      const reader = await ZFileReader.open(new BufferSource(input));
      for (let reads = 0; reads < 8; reads++) {
        const offset = random.below(expected.length);
        const target = Buffer.alloc(1 + random.below(Math.min(20_000, expected.length - offset)), 0xee);
        await reader.read(offset, target);
        if (!target.equals(expected.subarray(offset, offset + target.length))) {
          throw new Violation(`${target.length} bytes at ${offset} are not those that were written`);
        }
      }
    },
  };
}

/** The header tells the files apart. */
function marked(file: Buffer): string {
  return file.toString('latin1', 0, 512);
}

function written(): Buffer[] {
  return (['lz4', 'zstd'] as const).flatMap((algorithm, a) =>
    [4096, 16_384].map((blockSize, b) => {
      const sink = new MemorySink();
      const writer = new ZFileWriter(sink, { algorithm, blockSize });
      writer.write(content(2 * a + b));
      const { headerBytes } = writer.finish();
      const file = sink.bytes;
      headerBytes.copy(file);
      return file;
    }),
  );
}

/** Blocks that compress well, hardly, and not at all, and a short last one. */
function content(number: number): Buffer {
  const random = new Random('content', number);
  return Buffer.concat([
    Buffer.alloc(20_000, `text ${number} `),
    Buffer.alloc(9000),
    random.bytes(15_000),
    Buffer.alloc(3001 + number, 'tail'),
  ]);
}
