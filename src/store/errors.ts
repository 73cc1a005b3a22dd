import { errorCode } from '../format/error-code.ts';

export type StoreErrorCode =
  /** The bytes are not those that the digest names. */
  | 'ERR_STORE_DIGEST'
  /** More or fewer bytes than were announced. */
  | 'ERR_STORE_SIZE'
  /** No space, quota or inodes left on this machine. */
  | 'ERR_STORE_FULL'
  /** The bucket takes no more. */
  | 'ERR_STORE_BUCKET_FULL'
  /** Another process works on the same directory. */
  | 'ERR_STORE_LOCKED'
  /** The catalog was written by a newer version. */
  | 'ERR_STORE_VERSION'
  /** Used after it was closed, committed or aborted. */
  | 'ERR_STORE_CLOSED'
  /** The file system below failed. */
  | 'ERR_STORE_IO';

/** What could not be kept, and why. */
export class StoreError extends Error {
  override readonly name = 'StoreError';
  readonly code: StoreErrorCode;

  constructor(code: StoreErrorCode, message: string, options?: ErrorOptions) {
    super(message, options);
    this.code = code;
  }
}

const FAILURES: ReadonlySet<StoreErrorCode> = new Set([
  'ERR_STORE_FULL',
  'ERR_STORE_BUCKET_FULL',
  'ERR_STORE_IO',
]);

/** Whether the store could not do it now, as when it is full or out of reach: nothing is wrong with the bytes. */
export function isStoreFailure(error: unknown): error is StoreError {
  return error instanceof StoreError && FAILURES.has(error.code);
}

/** Of system calls, of SQLite, and of PostgreSQL (disk_full). */
const FULL = new Set(['ENOSPC', 'EDQUOT', 'EFBIG', 'SQLITE_FULL', '53100']);

/** A failed system call as a StoreError that says what was being done. */
export function ioError(doing: string, cause: unknown): StoreError {
  if (cause instanceof StoreError) return cause;
  const reason = cause instanceof Error ? cause.message : String(cause);
  if (FULL.has(errorCode(cause) ?? '')) {
    return new StoreError('ERR_STORE_FULL', `${doing}: no space left (${reason})`, { cause });
  }
  return new StoreError('ERR_STORE_IO', `${doing}: ${reason}`, { cause });
}
