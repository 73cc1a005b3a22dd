import { createHash, type Hash } from 'node:crypto';
import { closeSync, fstatSync, openSync, readSync } from 'node:fs';
import { decoderOf } from '../format/decoder-of.ts';
import { FormatError } from '../format/errors.ts';
import type { StreamDecoder } from '../format/stream-decoder.ts';
import { type TarHandler, TarReader } from '../format/tar-reader.ts';
import { ConvertError } from './errors.ts';
import { LayerLimits } from './layer-limits.ts';
import type { LayerTask } from './layer-protocol.ts';

const PIECE_BYTES = 256 * 1024;

export interface ReadOptions {
  /** Called with each piece of the layer: compressed bytes read so far. What it throws ends the reading. */
  readonly onPiece: (compressedBytes: number) => void;
}

/**
 * Unpacks a layer's file and passes its members to `handler`, synchronously. Returns the size of the tar once all of
 * it is read and digests of both, the file and the tar, are as they should be; else throws ConvertError, or FormatError
 * from the reader.
 */
export function readTar(
  { layerPath, digest, diffId, limits }: Pick<LayerTask, 'layerPath' | 'digest' | 'diffId' | 'limits'>,
  handler: TarHandler,
  { onPiece }: ReadOptions,
): number {
  const layerLimits = new LayerLimits(limits);
  const reader = new TarReader(layerLimits.guard(handler));
  const fileHash = new ExpectedDigest(digest);
  const tarHash = new ExpectedDigest(diffId);
  let tarBytes = 0;
  const fd = openSync(layerPath, 'r');
  try {
    const fileBytes = fstatSync(fd).size;
    const takeTar = (bytes: Buffer) => {
      tarBytes += bytes.length;
      layerLimits.unpacked(tarBytes, fileBytes);
      tarHash.update(bytes);
      reader.write(bytes);
    };
    readPieces(fd, (file, decoder, read) => {
      fileHash.update(file);
      decoder.write(file, takeTar);
      onPiece(read);
    });
  } finally {
    closeSync(fd);
  }
  fileHash.check(
    (actual) =>
      new ConvertError(
        'ERR_CONVERT_LAYER_DIGEST',
        `the layer's file holds ${actual}, but the image's manifest names ${digest}`,
      ),
  );
  reader.finish();
  tarHash.check(
    (actual) =>
      new ConvertError(
        'ERR_CONVERT_DIFF_ID',
        `the layer unpacks to ${actual}, but the image's config names ${diffId}`,
      ),
  );
  return tarBytes;
}

/** Reads a file, in pieces that are only lent, and chooses its decoder by its first bytes. */
function readPieces(fd: number, take: (piece: Buffer, decoder: StreamDecoder, read: number) => void): void {
  const buffer = Buffer.allocUnsafe(PIECE_BYTES);
  let decoder: StreamDecoder | null = null;
  try {
    let read = 0;
    for (let count = readSync(fd, buffer); count > 0; count = readSync(fd, buffer)) {
      const piece = buffer.subarray(0, count);
      decoder ??= decoderOf(piece);
      read += count;
      take(piece, decoder, read);
    }
    decoder?.finish();
  } catch (cause) {
    if (!(cause instanceof FormatError) || cause.code !== 'ERR_STREAM_CORRUPT') throw cause;
    throw new ConvertError('ERR_CONVERT_STREAM', `the layer cannot be decompressed: ${cause.message}`, {
      cause,
    });
  } finally {
    decoder?.close();
  }
}

class ExpectedDigest {
  readonly #algorithm: string;
  readonly #expected: string;
  readonly #hash: Hash;

  constructor(digest: string) {
    this.#expected = digest;
    this.#algorithm = digest.slice(0, digest.indexOf(':'));
    this.#hash = createHash(this.#algorithm);
  }

  update(bytes: Buffer): void {
    this.#hash.update(bytes);
  }

  check(error: (actual: string) => ConvertError): void {
    const actual = `${this.#algorithm}:${this.#hash.digest('hex')}`;
    if (actual !== this.#expected) throw error(actual);
  }
}
