import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { pipeline } from 'node:stream/promises';
import { constants, createGunzip, createZstdDecompress } from 'node:zlib';
import { type TarHandler, TarReader } from '../format/tar-reader.ts';
import { ConvertError } from './errors.ts';
import type { LayerTask } from './layer-protocol.ts';

/** Large pieces make Node's gunzip more than twice as fast as its defaults do. */
const PIECE_BYTES = 256 * 1024;
const PROGRESS_STEP_BYTES = 1 << 20;

/**
 * Unpacks a layer's file and passes its members to `handler`. Resolves with the size of the tar once all of
 * it is read and its digest is the diff ID; else ConvertError, or FormatError from the reader.
 */
export async function readTar(
  task: Pick<LayerTask, 'layerPath' | 'compression' | 'diffId'>,
  handler: TarHandler,
  onProgress: (compressedBytes: number) => void,
): Promise<number> {
  const reader = new TarReader(handler);
  const [algorithm = '', expected] = task.diffId.split(':');
  const hash = createHash(algorithm);
  let sizeBytes = 0;
  let reported = 0;
  const file = createReadStream(task.layerPath, { highWaterMark: PIECE_BYTES });

  async function consume(pieces: AsyncIterable<Buffer>): Promise<void> {
    for await (const piece of pieces) {
      hash.update(piece);
      reader.write(piece);
      sizeBytes += piece.length;
      if (file.bytesRead - reported >= PROGRESS_STEP_BYTES) {
        reported = file.bytesRead;
        onProgress(reported);
      }
    }
  }

  try {
    const unpack = unpacker(task.compression);
    await (unpack === null ? consume(file) : pipeline(file, unpack, consume));
  } catch (cause) {
    throw isZlibError(cause)
      ? new ConvertError(
          'ERR_CONVERT_STREAM',
          `the layer's ${task.compression} stream is broken: ${cause.message}`,
          {
            cause,
          },
        )
      : cause;
  }
  reader.finish();
  const actual = hash.digest('hex');
  if (actual !== expected) {
    throw new ConvertError(
      'ERR_CONVERT_DIFF_ID',
      `the layer unpacks to ${algorithm}:${actual}, but the image's config names ${task.diffId}`,
    );
  }
  return sizeBytes;
}

function unpacker(compression: LayerTask['compression']) {
  const sizes = { chunkSize: PIECE_BYTES, highWaterMark: PIECE_BYTES };
  switch (compression) {
    case 'gzip':
      return createGunzip(sizes);
    case 'zstd':
      // The widest window that zstd's own command line accepts without a flag: 128 MiB.
      return createZstdDecompress({ ...sizes, params: { [constants.ZSTD_d_windowLogMax]: 27 } });
    case 'none':
      return null;
  }
}

function isZlibError(error: unknown): error is Error {
  return (
    error instanceof Error &&
    'code' in error &&
    typeof error.code === 'string' &&
    /^(Z_|ZSTD_)/.test(error.code)
  );
}
