import { mkdir, readdir, readFile, rename, rm, rmdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import { isSystemError } from '../../format/error-code.ts';
import { identifyProcess, isRunning } from '../attach/processes.ts';
import { ClientError } from '../errors.ts';
import { mountPaths } from './mount-paths.ts';

const stateSchema = z.object({
  id: z.string(),
  /** The process that holds the mount, as it cannot be mistaken for a later one. */
  process: z.object({ pid: z.number(), startTime: z.number() }),
  status: z.enum(['starting', 'mounted', 'detaching']),
  image: z.string(),
  manifestDigest: z.string().nullable(),
  /** What the image is mounted on, without symbolic links. */
  directory: z.string(),
  fsType: z.enum(['erofs', 'ext4']).nullable(),
  method: z.enum(['file', 'loop', 'nbd']).nullable(),
  deviceBytes: z.number().nullable(),
  /** ISO 8601. */
  startedAt: z.string(),
});

/** What the run directory says about one mount. */
export type MountState = z.infer<typeof stateSchema>;

/**
 * Makes a mount's work directory with its state in it, in one step that only one process can make. The run
 * directory must exist.
 * @throws ClientError ERR_MOUNT_TARGET if there is one
 */
export async function claimMount(runDirectory: string, state: MountState): Promise<void> {
  const prepared = join(runDirectory, `.${state.id}-${state.process.pid}`);
  await mkdir(prepared, { recursive: true, mode: 0o700 });
  try {
    await writeFile(join(prepared, 'state.json'), JSON.stringify(state));
    await rename(prepared, mountPaths(runDirectory, state.id).workDirectory);
  } catch (cause) {
    await rm(prepared, { recursive: true, force: true });
    if (!isSystemError(cause, 'ENOTEMPTY')) throw cause;
    throw new ClientError('ERR_MOUNT_TARGET', `${state.directory} has a mount of ours already`, { cause });
  }
}

export async function writeState(runDirectory: string, state: MountState): Promise<void> {
  const { stateFile } = mountPaths(runDirectory, state.id);
  await writeFile(`${stateFile}.new`, JSON.stringify(state));
  await rename(`${stateFile}.new`, stateFile);
}

/** Removes what a mount has in the run directory, once it is detached. Never looks below a mount. */
export async function removeState(runDirectory: string, id: string): Promise<void> {
  const { workDirectory, stateFile, nbdSocket, controlSocket, logFile } = mountPaths(runDirectory, id);
  for (const path of [`${stateFile}.new`, nbdSocket, controlSocket, stateFile, logFile]) {
    await rm(path, { force: true });
  }
  await rmdir(workDirectory);
}

/** Removes what processes prepared that died before they claimed it. */
export async function removeUnclaimed(runDirectory: string): Promise<void> {
  for (const name of await readdir(runDirectory).catch(() => [])) {
    const [, pid] = /^\.[0-9a-f]{12}-(\d+)$/.exec(name) ?? [];
    if (pid === undefined || (await identifyProcess(Number(pid))) !== null) continue;
    await rm(join(runDirectory, name), { recursive: true, force: true });
  }
}

/** A mount in the run directory; `state` is null if what it says cannot be read. */
export interface FoundMount {
  readonly id: string;
  readonly state: MountState | null;
  /** Whether its process lives. */
  readonly isAlive: boolean;
}

export async function findMounts(runDirectory: string): Promise<FoundMount[]> {
  const names = await readdir(runDirectory).catch(() => []);
  const ids = names.filter((name) => /^[0-9a-f]{12}$/.test(name));
  return Promise.all(
    ids.map(async (id) => {
      const state = await readState(runDirectory, id);
      return { id, state, isAlive: state !== null && (await isRunning(state.process)) };
    }),
  );
}

async function readState(runDirectory: string, id: string): Promise<MountState | null> {
  const text = await readFile(mountPaths(runDirectory, id).stateFile, 'utf8').catch(() => 'null');
  try {
    return stateSchema.parse(JSON.parse(text));
  } catch {
    return null;
  }
}
