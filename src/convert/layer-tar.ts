import { closeSync, fstatSync, openSync, readSync } from 'node:fs';
import { decoderOf } from '../format/decoder-of.ts';
import type { HashAlgorithm } from '../format/digest-state.ts';
import { FormatError } from '../format/errors.ts';
import type { StreamDecoder } from '../format/stream-decoder.ts';
import { type TarHandler, TarReader } from '../format/tar-reader.ts';
import { ConvertError } from './errors.ts';
import type { OpenHashLane } from './hash-lane.ts';
import { LayerLimits } from './layer-limits.ts';
import type { LayerTask } from './layer-protocol.ts';

export interface ReadOptions {
  /** Begins a hash of the layer's file, or of its tar. */
  readonly hash: (what: 'file' | 'tar', algorithm: HashAlgorithm) => OpenHashLane;
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
  { hash, onPiece }: ReadOptions,
): number {
  const fd = openSync(layerPath, 'r');
  const fileHash = hash('file', algorithmOf(digest));
  const tarHash = hash('tar', algorithmOf(diffId));
  let decoder: StreamDecoder | null = null;
  try {
    const fileBytes = fstatSync(fd).size;
    const layerLimits = new LayerLimits(limits);
    const reader = new TarReader(layerLimits.guard(handler));
    let tarBytes = 0;
    const takeTar = (bytes: Buffer) => {
      tarBytes += bytes.length;
      layerLimits.unpacked(tarBytes, fileBytes);
      // What is not compressed has one digest, as a file and as a tar.
      if (decoder?.format !== 'none') tarHash.put(bytes.length);
      reader.write(bytes);
    };
    for (let read = 0; ; ) {
      const space = fileHash.next();
      const count = readSync(fd, space);
      if (count === 0) break;
      read += count;
      fileHash.put(count);
      decoder ??= decoderOf(space.subarray(0, count), () => tarHash.next());
      decompress(decoder, space.subarray(0, count), takeTar);
      onPiece(read);
    }
    const fileDigest = fileHash.digest();
    if (fileDigest !== digest) {
      throw new ConvertError(
        'ERR_CONVERT_LAYER_DIGEST',
        `the layer's file holds ${fileDigest}, but the image's manifest names ${digest}`,
      );
    }
    if (decoder !== null) decompress(decoder, null, takeTar);
    reader.finish();
    const tarDigest = decoder?.format === 'none' ? fileDigest : tarHash.digest();
    if (tarDigest !== diffId) {
      throw new ConvertError(
        'ERR_CONVERT_DIFF_ID',
        `the layer unpacks to ${tarDigest}, but the image's config names ${diffId}`,
      );
    }
    return tarBytes;
  } finally {
    decoder?.close();
    tarHash.close();
    fileHash.close();
    closeSync(fd);
  }
}

/** @param piece null at the end */
function decompress(decoder: StreamDecoder, piece: Buffer | null, take: (tar: Buffer) => void): void {
  try {
    if (piece === null) decoder.finish();
    else decoder.write(piece, take);
  } catch (cause) {
    if (!(cause instanceof FormatError) || cause.code !== 'ERR_STREAM_CORRUPT') throw cause;
    throw new ConvertError('ERR_CONVERT_STREAM', `the layer cannot be decompressed: ${cause.message}`, {
      cause,
    });
  }
}

function algorithmOf(digest: string): HashAlgorithm {
  return digest.startsWith('sha512:') ? 'sha512' : 'sha256';
}
