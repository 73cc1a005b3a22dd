import { statfs } from 'node:fs/promises';
import pLimit, { type LimitFunction } from 'p-limit';
import { errorCode } from '../format/error-code.ts';
import { reserveRoom } from '../format/fallocate.ts';
import { ioError, StoreError } from './errors.ts';

/** Of file systems that cannot reserve space (ENOSYS: some in user space). */
const UNSUPPORTED = new Set(['EOPNOTSUPP', 'ENOSYS']);

/** The space of a file system, some of which is never used. */
export class DiskSpace {
  readonly #directory: string;
  readonly #minFreeBytes: number;
  /** What one file reserves must be seen when the next one asks what is free. */
  readonly #oneByOne: LimitFunction = pLimit(1);

  /** @param minFreeBytes what is left free, for others */
  constructor(directory: string, minFreeBytes: number) {
    this.#directory = directory;
    this.#minFreeBytes = minFreeBytes;
  }

  /**
   * Reserves space for a file, before anything is written to it. Where the file system cannot, only checks.
   * @throws StoreError ERR_STORE_FULL
   */
  reserve(fd: number, sizeBytes: number): Promise<void> {
    return this.#oneByOne(async () => {
      await this.check(sizeBytes);
      if (sizeBytes > 0) await allocate(fd, sizeBytes);
    });
  }

  /** @throws StoreError ERR_STORE_FULL if `wantedBytes` more would use what is to be left free */
  async check(wantedBytes: number): Promise<void> {
    if (this.#minFreeBytes === 0) return;
    const { bavail, bsize } = await statfs(this.#directory);
    const freeBytes = bavail * bsize;
    if (freeBytes - wantedBytes >= this.#minFreeBytes) return;
    throw new StoreError(
      'ERR_STORE_FULL',
      `${this.#directory} has ${freeBytes} bytes free, ${wantedBytes} are wanted and ${this.#minFreeBytes} are to stay free; make room, or lower storage.minFreeBytes`,
    );
  }
}

async function allocate(fd: number, sizeBytes: number): Promise<void> {
  while (true) {
    try {
      return await reserveRoom(fd, 0, sizeBytes);
    } catch (cause) {
      const errno = errorCode(cause) ?? '';
      if (UNSUPPORTED.has(errno)) return;
      if (errno !== 'EINTR') throw ioError(`cannot reserve ${sizeBytes} bytes`, cause);
    }
  }
}
