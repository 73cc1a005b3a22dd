import { isSystemError } from '../../format/error-code.ts';
import { KernelNbdDevice } from './kernel-nbd-device.ts';
import { ignoreUnmounted, listSystemMounts, unmount } from './linux-mount.ts';

/** Directories a device is mounted on, the latest mount first. */
export async function targetsOf({ path }: KernelNbdDevice): Promise<string[]> {
  const mounts = await listSystemMounts();
  return mounts.flatMap(({ source, target }) => (source === path ? [target] : [])).reverse();
}

/**
 * Ends the kernel's NBD device with that backend identifier, whoever uses it: they get I/O errors. What is already gone
 * is fine.
 * @throws SystemCallError
 */
export async function detachKernelNbd(backend: string): Promise<void> {
  const device = await KernelNbdDevice.find(backend);
  if (device === null) return;
  // First of all, so that nothing below waits for a read that nobody answers.
  await device.disconnect().catch((error) => {
    if (!isSystemError(error, 'EINVAL')) throw error;
  });
  for (const target of await targetsOf(device)) await unmount(target, { lazy: true }).catch(ignoreUnmounted);
}
