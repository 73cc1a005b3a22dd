import { listSystemMounts, type MountEntry } from '../attach/linux-mount.ts';
import { ClientError } from '../errors.ts';

/** For what is mounted on these directories. @throws ClientError ERR_MOUNT_BUSY that names who uses it */
export async function refuseIfUsed(targets: readonly string[]): Promise<void> {
  const used = await usersOf(targets);
  if (used.length === 0) return;
  throw new ClientError(
    'ERR_MOUNT_BUSY',
    `containers use what would be unmounted (${used.join(', ')}): stop them first, or force it, and they get I/O errors`,
  );
}

/**
 * The directories on which something is mounted that reads from what is mounted on these: overlays, and the same file
 * system once more (a view of a snapshot is a bind mount). The kernel lets a file system be unmounted that they read
 * from, and only their users would notice.
 */
async function usersOf(directories: readonly string[]): Promise<string[]> {
  const mounts = await listSystemMounts();
  const wanted = new Set(directories);
  const devices = new Set(mounts.flatMap(({ target, device }) => (wanted.has(target) ? [device] : [])));
  const isUser = ({ target, device, lowerDirectories }: MountEntry) =>
    (devices.has(device) && !wanted.has(target)) ||
    lowerDirectories.some((lower) => directories.some((directory) => isNamed(directory, lower)));
  return mounts.filter(isUser).map(({ target }) => target);
}

/** containerd names many lower directories from where they have in common, to fit them into one page. */
function isNamed(directory: string, lower: string): boolean {
  return lower === directory || (!lower.startsWith('/') && directory.endsWith(`/${lower}`));
}
