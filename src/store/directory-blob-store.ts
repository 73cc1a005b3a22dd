import { randomUUID } from 'node:crypto';
import { mkdir, readdir, rename, rm, stat, unlink } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import type { ByteSource } from '../format/byte-source.ts';
import { errorCode } from '../format/error-code.ts';
import { FileSource } from '../format/file-source.ts';
import { type Digest, digestAlgorithm, digestHex, digestOf, isDigest } from '../oci/digest.ts';
import { BlobHolds } from './blob-holds.ts';
import type { BlobStore, BlobWriter, ExpectedBlob, HeldBlob, ListedBlob, LocalFile } from './blob-store.ts';
import { DirectoryBlobWriter } from './directory-blob-writer.ts';
import { DirectoryLock } from './directory-lock.ts';
import { DiskSpace } from './disk-space.ts';
import { ioError } from './errors.ts';
import { fsyncPath, hashFile } from './fs-calls.ts';
import { HeldSource } from './held-source.ts';

export interface DirectoryOptions {
  /** Free space of the file system that blobs never use; 0 if not given. */
  readonly minFreeBytes?: number;
}

/**
 * Blobs as files: `blobs/sha256/ab/abcd…`, and `ingest/` for what is not finished. A blob's file is complete,
 * verified and durable from the moment it has its name.
 */
export class DirectoryBlobStore implements BlobStore {
  readonly #directory: string;
  readonly #ingest: string;
  readonly #lock: DirectoryLock;
  readonly #space: DiskSpace;
  readonly #holds = new BlobHolds();

  private constructor(directory: string, lock: DirectoryLock, space: DiskSpace) {
    this.#directory = directory;
    this.#ingest = join(directory, 'ingest');
    this.#lock = lock;
    this.#space = space;
  }

  /**
   * Creates the directory if need be and clears what an earlier process left unfinished. Throws
   * ERR_STORE_LOCKED if another process has it open.
   */
  static async open(directory: string, options: DirectoryOptions = {}): Promise<DirectoryBlobStore> {
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
    return new DirectoryBlobStore(directory, lock, new DiskSpace(directory, options.minFreeBytes ?? 0));
  }

  async stat(digest: Digest): Promise<{ sizeBytes: number } | null> {
    const found = await this.#listed(digest);
    return found === null ? null : { sizeBytes: found.sizeBytes };
  }

  async open(digest: Digest): Promise<ByteSource | null> {
    return this.#holds.hold(digest, (release) => {
      try {
        return new HeldSource(FileSource.open(this.#pathOf(digest)), release);
      } catch (cause) {
        if (errorCode(cause) === 'ENOENT') return null;
        throw ioError(`cannot open ${digest}`, cause);
      }
    });
  }

  hold(digest: Digest): Promise<HeldBlob | null> {
    return this.localFile(digest);
  }

  async localFile(digest: Digest): Promise<LocalFile | null> {
    return this.#holds.hold(digest, async (release) => {
      if ((await this.stat(digest)) === null) return null;
      return { path: this.#pathOf(digest), close: async () => release() };
    });
  }

  async *list(): AsyncIterable<ListedBlob> {
    const blobs = join(this.#directory, 'blobs');
    for (const algorithm of await namesIn(blobs)) {
      for (const prefix of await namesIn(join(blobs, algorithm))) {
        for (const hex of await namesIn(join(blobs, algorithm, prefix))) {
          const digest = `${algorithm}:${hex}`;
          if (!isDigest(digest) || !hex.startsWith(prefix)) continue;
          const found = await this.#listed(digest);
          if (found !== null) yield found;
        }
      }
    }
  }

  writer(expected: ExpectedBlob | null): Promise<BlobWriter> {
    const path = join(this.#ingest, randomUUID());
    return DirectoryBlobWriter.create(path, expected, this.#space, (from, digest) =>
      this.#move(from, digest),
    );
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

  remove(digest: Digest): Promise<boolean> {
    return this.#holds.unlessHeld(digest, () => this.#unlink(digest));
  }

  async verify(digest: Digest, signal?: AbortSignal): Promise<'intact' | 'damaged' | 'absent'> {
    const found = await this.#holds.hold(digest, async (release) => {
      try {
        return await hashFile(this.#pathOf(digest), digestAlgorithm(digest), signal);
      } catch (cause) {
        if (errorCode(cause) === 'ENOENT') return null;
        // What a disk cannot read any more is lost.
        if (errorCode(cause) === 'EIO') return 'unreadable';
        signal?.throwIfAborted();
        throw ioError(`cannot verify ${digest}`, cause);
      } finally {
        release();
      }
    });
    if (found === null) return 'absent';
    if (found === digest) return 'intact';
    await this.#unlink(digest);
    return 'damaged';
  }

  scratch(): string {
    return this.#ingest;
  }

  /** Lets another process open the directory. */
  async close(): Promise<void> {
    this.#lock.release();
  }

  async #listed(digest: Digest): Promise<ListedBlob | null> {
    try {
      const { size, mtimeMs } = await stat(this.#pathOf(digest));
      return { digest, sizeBytes: size, modifiedAtMs: mtimeMs };
    } catch (cause) {
      if (errorCode(cause) === 'ENOENT') return null;
      throw ioError(`cannot look up ${digest}`, cause);
    }
  }

  async #unlink(digest: Digest): Promise<boolean> {
    try {
      await unlink(this.#pathOf(digest));
      return true;
    } catch (cause) {
      if (errorCode(cause) === 'ENOENT') return false;
      throw ioError(`cannot remove ${digest}`, cause);
    }
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

/** What stands in a directory; nothing if it is not there, or not a directory. */
async function namesIn(directory: string): Promise<string[]> {
  try {
    return await readdir(directory);
  } catch (cause) {
    if (errorCode(cause) === 'ENOENT' || errorCode(cause) === 'ENOTDIR') return [];
    throw ioError(`cannot list ${directory}`, cause);
  }
}
