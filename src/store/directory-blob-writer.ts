import { rm } from 'node:fs/promises';
import { type Digest, Digester, digestAlgorithm } from '../oci/digest.ts';
import type { BlobWriter, ExpectedBlob, StoredBlob } from './blob-store.ts';
import type { DiskSpace } from './disk-space.ts';
import { ioError, StoreError } from './errors.ts';
import { closeFd, fsyncFd, openFd, writeAll } from './fs-calls.ts';

/** Between two looks at the free space, while a blob of unknown size comes in. */
const CHECK_EVERY_BYTES = 16 * 1024 * 1024;

/** Writes one temporary file, hashing as it goes, and hands it over when it is what it should be. */
export class DirectoryBlobWriter implements BlobWriter {
  readonly path: string;
  #bytesWritten = 0;
  #fd: number | null;
  #verified: Digest | null = null;
  readonly #expected: ExpectedBlob | null;
  readonly #digester: Digester;
  readonly #space: DiskSpace;
  readonly #show: (path: string, digest: Digest) => Promise<void>;

  private constructor(
    path: string,
    fd: number,
    expected: ExpectedBlob | null,
    space: DiskSpace,
    show: (path: string, digest: Digest) => Promise<void>,
  ) {
    this.path = path;
    this.#fd = fd;
    this.#expected = expected;
    this.#digester = new Digester(expected === null ? 'sha256' : digestAlgorithm(expected.digest));
    this.#space = space;
    this.#show = show;
  }

  /**
   * `show` moves the verified, durable file to its place.
   * @throws StoreError ERR_STORE_FULL if there is no room for the blob, or for one of unknown size none at all
   */
  static async create(
    path: string,
    expected: ExpectedBlob | null,
    space: DiskSpace,
    show: (path: string, digest: Digest) => Promise<void>,
  ): Promise<DirectoryBlobWriter> {
    let writer: DirectoryBlobWriter | null = null;
    try {
      const fd = await openFd(path, 'wx');
      writer = new DirectoryBlobWriter(path, fd, expected, space, show);
      if (expected?.sizeBytes === undefined) await space.check(CHECK_EVERY_BYTES);
      else await space.reserve(fd, expected.sizeBytes);
      return writer;
    } catch (cause) {
      await writer?.abort();
      throw ioError(`cannot begin ${expected?.digest ?? 'a blob'} in ${path}`, cause);
    }
  }

  get bytesWritten(): number {
    return this.#bytesWritten;
  }

  async write(...pieces: readonly Buffer[]): Promise<void> {
    const fd = this.#open();
    const limit = this.#expected?.sizeBytes;
    const lengthBytes = pieces.reduce((sum, piece) => sum + piece.length, 0);
    if (limit !== undefined && this.#bytesWritten + lengthBytes > limit) {
      await this.abort();
      throw new StoreError('ERR_STORE_SIZE', `${this.#what()} is longer than its ${limit} bytes`);
    }
    try {
      if (limit === undefined) await this.#checkSpace(lengthBytes);
      const written = writeAll(fd, pieces, this.#bytesWritten);
      // The kernel takes the bytes meanwhile.
      for (const piece of pieces) this.#digester.update(piece);
      await written;
    } catch (cause) {
      await this.abort();
      throw ioError(`cannot write ${this.#what()}`, cause);
    }
    this.#bytesWritten += lengthBytes;
  }

  async verify(): Promise<void> {
    this.#open();
    try {
      this.#verified ??= this.#verify();
    } catch (error) {
      await this.abort();
      throw error;
    }
  }

  async commit(): Promise<StoredBlob> {
    const fd = this.#open();
    try {
      const digest = this.#verified ?? this.#verify();
      await fsyncFd(fd);
      this.#fd = null;
      await closeFd(fd);
      await this.#show(this.path, digest);
      return { digest, sizeBytes: this.#bytesWritten };
    } catch (cause) {
      await this.abort();
      await rm(this.path, { force: true });
      throw ioError(`cannot keep ${this.#what()}`, cause);
    }
  }

  async abort(): Promise<void> {
    const fd = this.#fd;
    if (fd === null) return;
    this.#fd = null;
    await closeFd(fd);
    await rm(this.path, { force: true });
  }

  async #checkSpace(nextBytes: number): Promise<void> {
    const checks = (bytes: number) => Math.floor(bytes / CHECK_EVERY_BYTES);
    const isDue = checks(this.#bytesWritten + nextBytes) > checks(this.#bytesWritten);
    if (isDue) await this.#space.check(Math.max(nextBytes, CHECK_EVERY_BYTES));
  }

  #verify(): Digest {
    const sizeBytes = this.#expected?.sizeBytes;
    if (sizeBytes !== undefined && this.#bytesWritten !== sizeBytes) {
      throw new StoreError(
        'ERR_STORE_SIZE',
        `${this.#what()} has ${this.#bytesWritten} bytes, expected ${sizeBytes}`,
      );
    }
    const actual = this.#digester.digest();
    if (this.#expected !== null && actual !== this.#expected.digest) {
      throw new StoreError('ERR_STORE_DIGEST', `expected ${this.#expected.digest}, the bytes have ${actual}`);
    }
    return actual;
  }

  #open(): number {
    if (this.#fd === null) {
      throw new StoreError('ERR_STORE_CLOSED', `${this.#what()} was committed, aborted or has failed`);
    }
    return this.#fd;
  }

  #what(): string {
    return this.#expected?.digest ?? 'a blob';
  }
}
