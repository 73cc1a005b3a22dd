import { mkdir, readdir, readFile, realpath, rename, rm, rmdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import { isSystemError } from '../../format/error-code.ts';
import { type Digest, digestHex, isDigest } from '../../oci/digest.ts';
import type { LazyChain } from '../sources/lazy-chain.ts';

const digest = z.string().refine(isDigest);

const recordSchema = z.object({
  chain: z.object({
    chainId: digest,
    registry: z.string(),
    repository: z.string(),
    manifestDigest: digest.optional(),
    layers: z.array(z.object({ digest, sizeBytes: z.number(), chunkTableDigest: digest })).readonly(),
  }),
  sizeBytes: z.number(),
  fsType: z.enum(['erofs', 'ext4']),
});

/** What is needed to go on serving a mounted device, without asking anybody. */
export interface MountRecord {
  readonly chain: LazyChain;
  /** Of the device. */
  readonly sizeBytes: number;
  readonly fsType: z.output<typeof recordSchema>['fsType'];
}

/** Where a chain's mount has what; without symbolic links. */
export interface MountPaths {
  readonly directory: string;
  /** What the chain's file system is mounted on. */
  readonly target: string;
  /** For what attaching needs. */
  readonly workDirectory: string;
  readonly recordFile: string;
}

/** Where the mounts of a run directory are. */
export function mountsDirectory(runDirectory: string): string {
  return join(runDirectory, 'm');
}

/** A path that is part of a name: short, since all paths of a container's layers must fit into one page. */
const NAME_LENGTH = 32;

/** A directory with one directory for each mounted chain, whatever became of the daemon that mounted it. */
export class MountRecords {
  readonly #directory: string;

  private constructor(directory: string) {
    this.#directory = directory;
  }

  /** Makes the directory if it is missing. Rejects with the system's error. */
  static async open(directory: string): Promise<MountRecords> {
    await mkdir(directory, { recursive: true, mode: 0o700 });
    // By such names the kernel lists mounts.
    return new MountRecords(await realpath(directory));
  }

  paths(chainId: Digest): MountPaths {
    return this.#pathsOf(digestHex(chainId).slice(0, NAME_LENGTH));
  }

  /** Makes the chain's directories. */
  async prepare(chainId: Digest): Promise<MountPaths> {
    const paths = this.paths(chainId);
    await mkdir(paths.workDirectory, { recursive: true, mode: 0o700 });
    await mkdir(paths.target, { recursive: true, mode: 0o755 });
    return paths;
  }

  async write(record: MountRecord): Promise<void> {
    const { recordFile } = this.paths(record.chain.chainId);
    await writeFile(`${recordFile}.new`, JSON.stringify(record), { mode: 0o600 });
    await rename(`${recordFile}.new`, recordFile);
  }

  /** All that is there. Rejects with the system's error. */
  async list(): Promise<MountPaths[]> {
    const entries = await readdir(this.#directory, { withFileTypes: true });
    return entries.filter((entry) => entry.isDirectory()).map(({ name }) => this.#pathsOf(name));
  }

  /** Null where there is none, or one that says nothing: nothing was mounted yet. Rejects with the system's error. */
  async read({ recordFile }: MountPaths): Promise<MountRecord | null> {
    const text = await ifThere(readFile(recordFile, 'utf8'));
    if (text === null) return null;
    try {
      return recordSchema.parse(JSON.parse(text));
    } catch {
      return null;
    }
  }

  /** Removes a chain's directory, once it is detached. Never looks below a mount. */
  async remove(paths: MountPaths): Promise<void> {
    await rm(`${paths.recordFile}.new`, { force: true });
    await rm(paths.recordFile, { force: true });
    for (const directory of [paths.target, paths.workDirectory, paths.directory]) {
      await ifThere(rmdir(directory));
    }
  }

  #pathsOf(name: string): MountPaths {
    const directory = join(this.#directory, name);
    return {
      directory,
      target: join(directory, 'fs'),
      workDirectory: join(directory, 'work'),
      recordFile: join(directory, 'mount.json'),
    };
  }
}

/** Null in place of ENOENT. */
export async function ifThere<T>(found: Promise<T>): Promise<T | null> {
  try {
    return await found;
  } catch (error) {
    if (isSystemError(error, 'ENOENT')) return null;
    throw error;
  }
}
