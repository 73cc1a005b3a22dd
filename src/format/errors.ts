export type FormatErrorCode =
  | 'ERR_ZFILE_CORRUPT'
  | 'ERR_LSMT_CORRUPT'
  | 'ERR_EROFS_CORRUPT'
  | 'ERR_TAR_CORRUPT'
  | 'ERR_CHUNK_TABLE_CORRUPT'
  /** A compressed stream that is broken, cut short, or goes on behind its end. */
  | 'ERR_STREAM_CORRUPT'
  /** The archive is well formed, but what it asks for cannot be put on the layers below it. */
  | 'ERR_LAYER_CONFLICT'
  /** A bound on size or number was passed. */
  | 'ERR_LIMIT'
  /** Well formed, but a form that is not read or written here. */
  | 'ERR_UNSUPPORTED';

/** Bytes that are not what their format says. */
export class FormatError extends Error {
  override readonly name = 'FormatError';
  readonly code: FormatErrorCode;

  constructor(code: FormatErrorCode, message: string, options?: ErrorOptions) {
    super(message, options);
    this.code = code;
  }
}
