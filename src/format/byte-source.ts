/** Immutable bytes that can be read at random. Offsets and lengths in bytes. */
export interface ByteSource {
  readonly size: number;
  /**
   * Fills `target` from `offset`; rejects with {@link SourceError} on a short, failed or unverified read,
   * never resolves with other bytes.
   */
  read(offset: number, target: Buffer, signal?: AbortSignal): Promise<void>;
  /**
   * Fills `target` before it returns, as `read` would, if that needs no waiting: what is in memory here or in the
   * kernel's. False if it does, or if something is wrong with the bytes: then `target` holds anything, and `read`
   * is to be asked. For small reads: the caller waits for the work. Throws ERR_SOURCE_RANGE only.
   */
  readNow?(offset: number, target: Buffer): boolean;
  /** To be told that bytes which it gave are damaged: it looks at what it keeps of them before it gives them again. */
  distrust?(offset: number, length: number): void;
  close(): Promise<void>;
}

export type SourceErrorCode =
  /** The range is not inside the source. */
  | 'ERR_SOURCE_RANGE'
  /** Fewer bytes came than were asked for. */
  | 'ERR_SOURCE_SHORT'
  /** The bytes do not match their digest or checksum. */
  | 'ERR_SOURCE_CORRUPT'
  /** The file, host or device below failed. */
  | 'ERR_SOURCE_IO';

/** A read that did not give the bytes asked for. */
export class SourceError extends Error {
  override readonly name = 'SourceError';
  readonly code: SourceErrorCode;

  constructor(code: SourceErrorCode, message: string, options?: ErrorOptions) {
    super(message, options);
    this.code = code;
  }
}

/** Throws ERR_SOURCE_RANGE unless `length` bytes at `offset` lie inside `size`. */
export function checkRange(what: string, size: number, offset: number, length: number): void {
  if (!Number.isSafeInteger(offset) || offset < 0 || offset + length > size) {
    throw new SourceError(
      'ERR_SOURCE_RANGE',
      `${what}: ${length} bytes at ${offset} are not inside its ${size}`,
    );
  }
}
