import { decodeChunkTable, encodeChunkTable, verifyChunk } from '../../src/format/chunk-table.ts';
import { mutate } from './mutate.ts';
import { Random } from './random.ts';
import { type FuzzTarget, Violation } from './target.ts';

/** Chunk tables: what is read, is written as the same bytes; and no chunk of zeros passes for one that has data. */
export function chunkTableTarget(): FuzzTarget {
  const random = new Random('chunk table');
  return {
    corpus: [0, 1, 5000, 300_000].map((blobSize) =>
      encodeChunkTable({ chunkSize: 4096, blobSize, digests: random.bytes(32 * Math.ceil(blobSize / 4096)) }),
    ),
    mutate: (input, random, other) => mutate(input, random, { other, hot: [[0, 24]] }),
    run(input, random) {
      const table = decodeChunkTable(input);
      if (!encodeChunkTable(table).equals(input))
        throw new Violation('it is another table when written again');
      const chunks = Math.ceil(table.blobSize / table.chunkSize);
      for (const index of [0, random.below(chunks), chunks, -1]) {
        if (verifyChunk(table, index, Buffer.alloc(4096)))
          throw new Violation(`zeros pass for chunk ${index}`);
      }
    },
  };
}
