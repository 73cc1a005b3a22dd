export type ConvertErrorCode =
  /** The layer's file is not the one that the manifest names. */
  | 'ERR_CONVERT_LAYER_DIGEST'
  /** The layer's content is not what the image's config says (diff ID). */
  | 'ERR_CONVERT_DIFF_ID'
  /** The manifest and the config do not fit together. */
  | 'ERR_CONVERT_IMAGE'
  /** An image that is left as it is: foreign or encrypted layers, artifacts, already converted. */
  | 'ERR_CONVERT_UNSUPPORTED'
  /** The compressed stream of a layer is broken. */
  | 'ERR_CONVERT_STREAM'
  /** The thread that converts a layer died. */
  | 'ERR_CONVERT_WORKER'
  /** It took longer than it may. */
  | 'ERR_CONVERT_TIMEOUT'
  /** The image costs more than is allowed. */
  | 'ERR_LIMIT';

/** A conversion that cannot be done, and why. */
export class ConvertError extends Error {
  override readonly name = 'ConvertError';
  readonly code: string;

  /** `code` is a {@link ConvertErrorCode}, or that of an error below that came over from a worker thread. */
  constructor(code: ConvertErrorCode | (string & {}), message: string, options?: ErrorOptions) {
    super(message, options);
    this.code = code;
  }
}
