import { realpath } from 'node:fs/promises';
import { resolve } from 'node:path';
import { detachRemains } from '../attach/attachment.ts';
import { hasEnded, signalProcess } from '../attach/processes.ts';
import { ClientError } from '../errors.ts';
import { type MountStats, requestStats, requestStop } from './mount-control.ts';
import { mountPaths } from './mount-paths.ts';
import { type FoundMount, findMounts, type MountState, removeState, removeUnclaimed } from './mount-state.ts';
import { withRunLock } from './run-lock.ts';

/** How long a process takes to end after it has taken everything down. */
const EXIT_TIMEOUT_MS = 10_000;

/** A mount as `dadi mount` lists it. */
export interface ListedMount {
  readonly id: string;
  readonly state: MountState | null;
  /** `dead`: its process is gone, what it left is removed by the next mount or by unmounting it. */
  readonly status: MountState['status'] | 'dead';
  /** Null if its process does not answer. */
  readonly stats: MountStats | null;
}

export async function listMounts(runDirectory: string): Promise<ListedMount[]> {
  const found = await findMounts(runDirectory);
  return Promise.all(
    found.map(async ({ id, state, isAlive }) => {
      const stats = isAlive
        ? await requestStats(mountPaths(runDirectory, id).controlSocket).catch(() => null)
        : null;
      return { id, state, status: isAlive && state !== null ? state.status : 'dead', stats };
    }),
  );
}

/**
 * Unmounts by directory or id, and waits until nothing is left. If the mount's process is dead, removes what it
 * left.
 * @returns what the mount cost, null if its process was dead, or it was not mounted yet
 * @throws ClientError ERR_MOUNT_NOT_FOUND, ERR_MOUNT_BUSY, ERR_DETACH_FAILED, ERR_MOUNT_DAEMON
 */
export async function unmountImage(
  runDirectory: string,
  directoryOrId: string,
  options: { readonly lazy: boolean },
): Promise<MountStats | null> {
  const mount = await findMount(runDirectory, directoryOrId);
  if (!mount.isAlive || mount.state === null) {
    await withRunLock(runDirectory, async () => {
      const { id, isAlive } = await findMount(runDirectory, mount.id);
      if (!isAlive) await removeDeadMount(runDirectory, id);
    });
    return null;
  }
  const { process, status } = mount.state;
  const { controlSocket } = mountPaths(runDirectory, mount.id);
  // One that is not mounted yet has no ear but for signals.
  const stats = status === 'starting' ? null : await requestStop(controlSocket, options);
  if (status === 'starting') await signalProcess(process, 'SIGTERM');
  if (!options.lazy && !(await hasEnded(process, EXIT_TIMEOUT_MS))) {
    throw new ClientError(
      'ERR_MOUNT_DAEMON',
      `${directoryOrId} is unmounted, but its process ${process.pid} does not end`,
    );
  }
  return stats;
}

/**
 * Removes what crashed mounts left, under the run directory's lock. Their readers have nobody to read from any
 * more, so nobody is waited for.
 * @param onFailure told of each that cannot be removed: it does not keep others from being mounted
 */
export async function removeDeadMounts(
  runDirectory: string,
  onFailure: (id: string, error: unknown) => void,
): Promise<void> {
  for (const { id, isAlive } of await findMounts(runDirectory)) {
    if (isAlive) continue;
    await removeDeadMount(runDirectory, id).catch((error) => onFailure(id, error));
  }
  await removeUnclaimed(runDirectory);
}

async function removeDeadMount(runDirectory: string, id: string): Promise<void> {
  await detachRemains(mountPaths(runDirectory, id).workDirectory);
  await removeState(runDirectory, id);
}

async function findMount(runDirectory: string, directoryOrId: string): Promise<FoundMount> {
  // A mount whose device is gone may not even give its real path.
  const path = await realpath(directoryOrId).catch(() => resolve(directoryOrId));
  const found = (await findMounts(runDirectory)).find(
    ({ id, state }) => id === directoryOrId || state?.directory === path,
  );
  if (found !== undefined) return found;
  throw new ClientError(
    'ERR_MOUNT_NOT_FOUND',
    `nothing of dadi's is mounted on ${directoryOrId} (see "dadi mount")`,
  );
}
