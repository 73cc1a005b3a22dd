import type { ByteSource } from '../format/byte-source.ts';
import type { Digest } from '../oci/digest.ts';

/** What a blob must turn out to be. */
export interface ExpectedBlob {
  readonly digest: Digest;
  /** When known: a byte more is refused at once, a byte less at the end. */
  readonly sizeBytes?: number;
}

/** A blob that is whole and verified. */
export interface StoredBlob {
  readonly digest: Digest;
  readonly sizeBytes: number;
}

/** Immutable bytes by digest. Nothing can be seen under a digest before its hash was checked. */
export interface BlobStore {
  stat(digest: Digest): Promise<{ sizeBytes: number } | null>;
  /** The caller closes it. Null if the blob is not there. */
  open(digest: Digest): Promise<ByteSource | null>;
  /** A file on this machine with the blob's bytes, or null if the blob is not there. Not to be written to. */
  localPath(digest: Digest): Promise<string | null>;
  /** Takes a blob in, piece by piece. Without `expected` its digest is SHA-256, told at commit. */
  writer(expected: ExpectedBlob | null): Promise<BlobWriter>;
  /**
   * Moves a finished file into the store. The caller computed `digest` from that same file. The file must be
   * on the store's file system: make it in {@link scratch}.
   */
  adopt(path: string, digest: Digest): Promise<void>;
  put(bytes: Buffer): Promise<Digest>;
  remove(digest: Digest): Promise<void>;
  /** A directory for temporary files, on the same file system as the blobs; emptied when the store is opened. */
  scratch(): string;
}

/** A blob on its way in. One call at a time. A call that fails removes what was written. */
export interface BlobWriter {
  /** The growing file. It can be opened and read up to {@link bytesWritten} at any time. */
  readonly path: string;
  readonly bytesWritten: number;
  /** Throws ERR_STORE_SIZE when more comes than was expected, ERR_STORE_FULL when the disk is full. */
  write(chunk: Buffer): Promise<void>;
  /** Verifies, makes durable and shows the blob; throws ERR_STORE_DIGEST or ERR_STORE_SIZE. */
  commit(): Promise<StoredBlob>;
  /** Removes what was written. Harmless after commit, failure or abort. */
  abort(): Promise<void>;
}
