import { close, fstatSync, openSync, read } from 'node:fs';
import { promisify } from 'node:util';
import { type ByteSource, checkRange, SourceError } from './byte-source.ts';
import { readCached } from './read-cached.ts';

const readAsync = promisify(read);
const closeAsync = promisify(close);

/** A local file as a {@link ByteSource}. Its size is taken when it is opened. */
export class FileSource implements ByteSource {
  readonly size: number;
  readonly #path: string;
  #fd: number | null;

  private constructor(path: string, fd: number, size: number) {
    this.#path = path;
    this.#fd = fd;
    this.size = size;
  }

  static open(path: string): FileSource {
    const fd = openSync(path, 'r');
    return new FileSource(path, fd, fstatSync(fd).size);
  }

  async read(offset: number, target: Buffer): Promise<void> {
    checkRange(this.#path, this.size, offset, target.length);
    let done = 0;
    while (done < target.length) {
      if (this.#fd === null) throw new SourceError('ERR_SOURCE_IO', `${this.#path}: read after close`);
      let bytesRead: number;
      try {
        ({ bytesRead } = await readAsync(this.#fd, target, done, target.length - done, offset + done));
      } catch (cause) {
        throw new SourceError('ERR_SOURCE_IO', `${this.#path}: cannot read at ${offset + done}`, { cause });
      }
      if (bytesRead === 0) {
        throw new SourceError(
          'ERR_SOURCE_SHORT',
          `${this.#path}: ends at ${offset + done}, expected ${this.size}`,
        );
      }
      done += bytesRead;
    }
  }

  /** What the kernel has in its page cache. */
  readNow(offset: number, target: Buffer): boolean {
    checkRange(this.#path, this.size, offset, target.length);
    return this.#fd !== null && readCached(this.#fd, offset, target);
  }

  async close(): Promise<void> {
    const fd = this.#fd;
    this.#fd = null;
    if (fd !== null) await closeAsync(fd);
  }
}
