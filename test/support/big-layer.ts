import { createHash } from 'node:crypto';
import { createWriteStream } from 'node:fs';
import { PassThrough } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { createGzip } from 'node:zlib';
import { pack } from 'tar-stream';

const POOL_BYTES = 1 << 22;

export interface BigLayer {
  /** `sha256:` of the uncompressed tar. */
  readonly diffId: string;
  readonly tarBytes: number;
}

/**
 * Writes a gzip layer with `smallFiles` files of some KB, each with a partial last block, and then large files
 * until the tar has about `bytes`. Content is half noise, half repetition, and always the same.
 */
export async function writeBigLayer(
  path: string,
  { bytes, smallFiles }: { bytes: number; smallFiles: number },
): Promise<BigLayer> {
  const pool = contentPool();
  const archive = pack();
  const hash = createHash('sha256');
  let tarBytes = 0;
  const counted = new PassThrough({ highWaterMark: 1 << 20 });
  counted.on('data', (piece: Buffer) => {
    hash.update(piece);
    tarBytes += piece.length;
  });
  const written = pipeline(archive, counted, createGzip({ level: 1 }), createWriteStream(path));

  const add = (name: string, content: Buffer): Promise<void> =>
    new Promise((resolve, reject) => {
      archive.entry({ name, mtime: new Date(0) }, content, (error) => (error ? reject(error) : resolve()));
    });
  for (let i = 0; i < smallFiles; i++) {
    const length = 1000 + ((i * 7919) % 3000);
    const start = (i * 104_729) % (POOL_BYTES - length);
    await add(`small/${i % 500}/file-${i}`, pool.subarray(start, start + length));
  }
  for (let i = 0; tarBytes < bytes; i++) await add(`large/${i}`, pool.subarray(i % 4096));
  archive.finalize();
  await written;
  return { diffId: `sha256:${hash.digest('hex')}`, tarBytes };
}

function contentPool(): Buffer {
  const pool = Buffer.alloc(POOL_BYTES);
  let state = 12345;
  for (let i = 0; i < POOL_BYTES; i += 4) {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    // Every other KiB repeats a few values.
    pool.writeUInt32LE((i >> 10) % 2 === 0 ? state : state & 0x0003_0003, i);
  }
  return pool;
}
