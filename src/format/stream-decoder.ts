/** Decompresses a stream, synchronously and in bounded memory: for worker threads. */
export interface StreamDecoder {
  readonly format: 'gzip' | 'zstd' | 'none';
  /**
   * Takes the stream's next bytes, all of them, and hands on what they decompress to, in pieces that are only good
   * until `output` returns. Throws FormatError ERR_STREAM_CORRUPT.
   */
  write(input: Buffer, output: (bytes: Buffer) => void): void;
  /** Says that no more bytes come. Throws FormatError ERR_STREAM_CORRUPT if the stream is cut short. */
  finish(): void;
  /** Frees native memory. The decoder is of no use then. */
  close(): void;
}

const SPACE_BYTES = 256 * 1024;

/** Space for decompressed bytes that is used again and again. */
export function ownSpace(): () => Buffer {
  const buffer = Buffer.allocUnsafe(SPACE_BYTES);
  return () => buffer;
}
