import type { ByteSource } from '../format/byte-source.ts';
import type { Digest } from '../oci/digest.ts';

/** What a blob must turn out to be. */
export interface ExpectedBlob {
  readonly digest: Digest;
  /** When known: its space is reserved at once; a byte more is refused at once, a byte less at the end. */
  readonly sizeBytes?: number;
}

/** A blob that is whole and verified. */
export interface StoredBlob {
  readonly digest: Digest;
  readonly sizeBytes: number;
}

export interface ListedBlob extends StoredBlob {
  /** When it was stored. */
  readonly modifiedAtMs: number;
}

/** Keeps a blob from being removed until it is closed. */
export interface HeldBlob {
  close(): Promise<void>;
}

/** A file on this machine with the bytes of a blob, which is held as long. Not to be written to. */
export interface LocalFile extends HeldBlob {
  readonly path: string;
}

/**
 * Immutable bytes by digest. Nothing can be seen under a digest before its hash was checked. What is held, as a file,
 * an open source or by {@link hold}, is not removed by this process.
 */
export interface BlobStore {
  stat(digest: Digest): Promise<{ sizeBytes: number } | null>;
  /** Holds the blob until the caller closes the source. Null if the blob is not there. */
  open(digest: Digest): Promise<ByteSource | null>;
  /** Holds the blob without reading it. Null if it is not there. */
  hold(digest: Digest): Promise<HeldBlob | null>;
  /** Holds the blob until the caller closes the file. Null if the blob is not there. */
  localFile(digest: Digest): Promise<LocalFile | null>;
  /** All blobs, in no order. What is stored or removed meanwhile may be among them or not. */
  list(): AsyncIterable<ListedBlob>;
  /**
   * Takes a blob in, piece by piece. Without `expected` its digest is SHA-256, told at commit. Rejects with
   * ERR_STORE_FULL if there is no room for it.
   */
  writer(expected: ExpectedBlob | null): Promise<BlobWriter>;
  /**
   * Moves a finished file into the store. The caller computed `digest` from that same file. The file must be
   * on the store's file system: make it in {@link scratch}.
   */
  adopt(path: string, digest: Digest): Promise<void>;
  put(bytes: Buffer): Promise<Digest>;
  /** Whether the blob was removed: not while it is held, or if it is not there. */
  remove(digest: Digest): Promise<boolean>;
  /**
   * Reads the blob and checks its hash. A damaged one is removed, even if it is held: nobody may open it any more.
   * Rejects with the signal's reason.
   */
  verify(digest: Digest, signal?: AbortSignal): Promise<'intact' | 'damaged' | 'absent'>;
  /** A directory for temporary files, on the same file system as local blobs; emptied when the store is opened. */
  scratch(): string;
  /** Lets another process have what this one has locked. */
  close(): Promise<void>;
}

/** A blob on its way in. One call at a time. A call that fails removes what was written. */
export interface BlobWriter {
  /** The growing file. It can be opened and read up to {@link bytesWritten} at any time. */
  readonly path: string;
  readonly bytesWritten: number;
  /** Throws ERR_STORE_SIZE when more comes than was expected, ERR_STORE_FULL when the disk is full. */
  write(...pieces: readonly Buffer[]): Promise<void>;
  /** To be called once, after the last write: throws ERR_STORE_DIGEST or ERR_STORE_SIZE if it is another blob. */
  verify(): Promise<void>;
  /** Verifies if that was not done, makes durable and shows the blob; throws ERR_STORE_DIGEST or ERR_STORE_SIZE. */
  commit(): Promise<StoredBlob>;
  /** Removes what was written. Harmless after commit, failure or abort. */
  abort(): Promise<void>;
}
