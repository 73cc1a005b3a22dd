import { chmod, lchown, mkdir, open, readdir, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';

const PRIVATE_MODE = 0o700;
/** As the root directory of a container has to be; the process's umask has no say. */
const FS_MODE = 0o755;
const WORK_MODE = 0o711;

/** The directories of snapshots, `ID/fs` and `ID/work`, as overlayfs takes them. */
export class SnapshotDirectories {
  readonly #root: string;
  /** Those that are not in the database yet, or no more, and will be seen to. */
  readonly #inWork = new Set<number>();

  private constructor(root: string) {
    this.#root = root;
  }

  static async open(root: string): Promise<SnapshotDirectories> {
    await mkdir(root, { recursive: true, mode: PRIVATE_MODE });
    return new SnapshotDirectories(root);
  }

  /** What a snapshot itself holds: the upper directory of an active one. */
  fs(id: number): string {
    return join(this.#root, String(id), 'fs');
  }

  work(id: number): string {
    return join(this.#root, String(id), 'work');
  }

  /** Makes a snapshot's directories, lets `enter` put them into the database, and removes them if that fails. */
  async make<T>(id: number, enter: () => T): Promise<T> {
    this.#inWork.add(id);
    try {
      await mkdir(join(this.#root, String(id)), { mode: PRIVATE_MODE });
      await mkdir(this.fs(id));
      await chmod(this.fs(id), FS_MODE);
      await mkdir(this.work(id));
      await chmod(this.work(id), WORK_MODE);
      // What the database names must be there after a power cut, too.
      for (const path of [this.#root, join(this.#root, String(id))]) await syncDirectory(path);
      return enter();
    } catch (error) {
      await this.remove(id);
      throw error;
    } finally {
      this.#inWork.delete(id);
    }
  }

  /** Gives a snapshot's root directory the owner that another directory has. */
  async own(id: number, like: string): Promise<void> {
    const { uid, gid } = await stat(like);
    await lchown(this.fs(id), uid, gid);
  }

  async remove(id: number): Promise<void> {
    this.#inWork.add(id);
    try {
      await rm(join(this.#root, String(id)), { recursive: true, force: true });
    } finally {
      this.#inWork.delete(id);
    }
  }

  /** Ids of all directories, whether the database knows them or not, but those being made or removed. */
  async ids(): Promise<number[]> {
    const names = await readdir(this.#root);
    const ids = names.filter((name) => /^[1-9][0-9]*$/.test(name)).map(Number);
    return ids.filter((id) => !this.#inWork.has(id));
  }
}

async function syncDirectory(path: string): Promise<void> {
  const directory = await open(path, 'r');
  try {
    await directory.sync();
  } finally {
    await directory.close();
  }
}
