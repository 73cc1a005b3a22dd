import { randomUUID } from 'node:crypto';
import { mkdir, readdir, rename, rm, stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import type { ByteSource } from '../format/byte-source.ts';
import { FileSource } from '../format/file-source.ts';
import { type Digest, digestAlgorithm, digestHex, digestOf } from '../oci/digest.ts';
import type { BlobStore, BlobWriter, ExpectedBlob } from './blob-store.ts';
import { DirectoryBlobWriter } from './directory-blob-writer.ts';
import { DirectoryLock } from './directory-lock.ts';
import { errnoOf, ioError } from './errors.ts';
import { fsyncPath } from './fs-calls.ts';

/**
 * Blobs as files: `blobs/sha256/ab/abcd…`, and `ingest/` for what is not finished. A blob's file is complete,
 * verified and durable from the moment it has its name.
 */
export class DirectoryBlobStore implements BlobStore {
  readonly #directory: string;
  readonly #ingest: string;
  readonly #lock: DirectoryLock;

  private constructor(directory: string, lock: DirectoryLock) {
    this.#directory = directory;
    this.#ingest = join(directory, 'ingest');
    this.#lock = lock;
  }

  /**
   * Creates the directory if need be and clears what an earlier process left unfinished. Throws
   * ERR_STORE_LOCKED if another process has it open.
   */
  static async open(directory: string): Promise<DirectoryBlobStore> {
    const ingest = join(directory, 'ingest');
    try {
      await mkdir(join(directory, 'blobs'), { recursive: true });
      await mkdir(ingest, { recursive: true });
    } catch (cause) {
      throw ioError(`cannot create ${directory}`, cause);
    }
    const lock = DirectoryLock.acquire(directory);
    try {
      for (const name of await readdir(ingest)) await rm(join(ingest, name), { recursive: true });
    } catch (cause) {
      lock.release();
      throw ioError(`cannot clear ${ingest}`, cause);
    }
    return new DirectoryBlobStore(directory, lock);
  }

  async stat(digest: Digest): Promise<{ sizeBytes: number } | null> {
    try {
      return { sizeBytes: (await stat(this.#pathOf(digest))).size };
    } catch (cause) {
      if (errnoOf(cause) === 'ENOENT') return null;
      throw ioError(`cannot look up ${digest}`, cause);
    }
  }

  async open(digest: Digest): Promise<ByteSource | null> {
    try {
      return FileSource.open(this.#pathOf(digest));
    } catch (cause) {
      if (errnoOf(cause) === 'ENOENT') return null;
      throw ioError(`cannot open ${digest}`, cause);
    }
  }

  async localPath(digest: Digest): Promise<string | null> {
    return (await this.stat(digest)) === null ? null : this.#pathOf(digest);
  }

  writer(expected: ExpectedBlob | null): Promise<BlobWriter> {
    const path = join(this.#ingest, randomUUID());
    return DirectoryBlobWriter.create(path, expected, (from, digest) => this.#move(from, digest));
  }

  async adopt(path: string, digest: Digest): Promise<void> {
    try {
      await fsyncPath(path);
      await this.#move(path, digest);
    } catch (cause) {
      await rm(path, { force: true });
      throw ioError(`cannot keep ${digest}`, cause);
    }
  }

  async put(bytes: Buffer): Promise<Digest> {
    const digest = digestOf(bytes);
    if ((await this.stat(digest)) !== null) return digest;
    const writer = await this.writer({ digest, sizeBytes: bytes.length });
    await writer.write(bytes);
    await writer.commit();
    return digest;
  }

  async remove(digest: Digest): Promise<void> {
    try {
      await rm(this.#pathOf(digest), { force: true });
    } catch (cause) {
      throw ioError(`cannot remove ${digest}`, cause);
    }
  }

  scratch(): string {
    return this.#ingest;
  }

  /** Lets another process open the directory. */
  async close(): Promise<void> {
    this.#lock.release();
  }

  async #move(from: string, digest: Digest): Promise<void> {
    const to = this.#pathOf(digest);
    const firstMade = await mkdir(dirname(to), { recursive: true });
    await rename(from, to);
    await fsyncPath(dirname(to));
    if (firstMade !== undefined) await fsyncPath(dirname(firstMade));
  }

  #pathOf(digest: Digest): string {
    const hex = digestHex(digest);
    return join(this.#directory, 'blobs', digestAlgorithm(digest), hex.slice(0, 2), hex);
  }
}
