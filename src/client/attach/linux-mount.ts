import { readFile } from 'node:fs/promises';
import { isSystemError } from '../../format/error-code.ts';
import { type NativeCall, nativeCall } from '../../format/libc.ts';
import { DEVICE_FILE_MODE, MAX_READ_BYTES } from './fuse-protocol.ts';
import { MOUNT, UMOUNT2 } from './mount-call.ts';
import { callInHelper } from './mount-helpers.ts';

const MS_RDONLY = 1;
/** Who opens a device node of the image does not get this machine's device. */
const MS_NODEV = 4;
const MS_NOSUID = 2;
const MNT_FORCE = 1;
const MNT_DETACH = 2;
const UMOUNT_NOFOLLOW = 8;

let mountCall: NativeCall | null = null;
let unmountCall: NativeCall | null = null;

/**
 * mount(2), read-only and without devices, of what this process serves: by a helper. Not by mount(8): that would put a
 * loop device under what is a file.
 * @throws SystemCallError; ClientError ERR_ATTACH_FAILED
 */
export async function mountReadOnly(
  source: string,
  target: string,
  fsType: string,
  data: string | null,
): Promise<void> {
  await callInHelper({ name: 'mount', source, target, fsType, flags: MS_RDONLY | MS_NODEV, data });
}

/**
 * Makes a file the one file of a FUSE file system, read-only: whoever holds the descriptor of /dev/fuse serves it.
 * Only this user may open it. Reads nothing of it.
 * @throws SystemCallError
 */
export async function mountFuseFile(fd: number, file: string): Promise<void> {
  mountCall ??= nativeCall('mount', MOUNT);
  const mode = DEVICE_FILE_MODE.toString(8);
  const data = `fd=${fd},rootmode=${mode},user_id=0,group_id=0,max_read=${MAX_READ_BYTES}`;
  await mountCall('dadi', file, 'fuse.dadi', MS_RDONLY | MS_NODEV | MS_NOSUID, data);
}

/**
 * umount2(2) of what {@link mountReadOnly} mounted: that may wait for reads ahead. Lazily: the directory is free at once,
 * the file system ends when its last user does.
 * @throws SystemCallError EBUSY if somebody uses it, EINVAL if nothing is mounted there; ClientError ERR_ATTACH_FAILED
 */
export async function unmount(target: string, options: { readonly lazy: boolean }): Promise<void> {
  await callInHelper({ name: 'umount2', target, flags: unmountFlags(options) });
}

/** The same for what {@link mountFuseFile} mounted, on which nothing is mounted any more. @throws SystemCallError */
export async function unmountFuseFile(file: string, options: { readonly lazy: boolean }): Promise<void> {
  await umount2(file, unmountFlags(options));
}

/**
 * Ends a FUSE file system whoever uses it: they get I/O errors, also those who wait in a read that nobody answers. It
 * stays mounted if it is in use: what stands on it is found by its path.
 * @throws SystemCallError EBUSY if somebody uses it, EINVAL if nothing is mounted there
 */
export async function abortFuse(file: string): Promise<void> {
  await umount2(file, UMOUNT_NOFOLLOW | MNT_FORCE);
}

function unmountFlags({ lazy }: { readonly lazy: boolean }): number {
  return UMOUNT_NOFOLLOW | (lazy ? MNT_DETACH : 0);
}

async function umount2(target: string, flags: number): Promise<void> {
  unmountCall ??= nativeCall('umount2', UMOUNT2);
  await unmountCall(target, flags);
}

/** For `catch`: nothing was mounted there, or nothing is there any more. */
export function ignoreUnmounted(error: unknown): void {
  if (!isSystemError(error, 'EINVAL', 'ENOENT')) throw error;
}

export interface MountEntry {
  readonly target: string;
  /** What was mounted: a device, a file, or a name. */
  readonly source: string;
  readonly fsType: string;
  /** Of the file system, "major:minor": the same wherever it is mounted. */
  readonly device: string;
  /** Of an overlay: the directories below it, as they were named when it was mounted. */
  readonly lowerDirectories: readonly string[];
}

/** All mounts that this process sees, the last one on a directory last (proc_pid_mountinfo(5)). */
export async function listSystemMounts(): Promise<MountEntry[]> {
  const text = await readFile('/proc/self/mountinfo', 'utf8');
  return text.split('\n').flatMap((line) => {
    const [before, after] = line.split(' - ');
    const [, , device, , target] = before?.split(' ') ?? [];
    const [fsType, source, options = ''] = after?.split(' ') ?? [];
    if (device === undefined || target === undefined || fsType === undefined || source === undefined)
      return [];
    return [
      {
        target: unescapeField(target),
        source: unescapeField(source),
        fsType,
        device,
        lowerDirectories: fsType === 'overlay' ? lowerDirectories(options) : [],
      },
    ];
  });
}

/** `lowerdir=` with all of them, or `lowerdir+=` for each. */
function lowerDirectories(options: string): string[] {
  return options.split(',').flatMap((option) => {
    const [, value] = /^lowerdir\+?=(.*)$/.exec(option) ?? [];
    return value?.split(':').map(unescapeField) ?? [];
  });
}

/** Space, tab, newline and backslash come as three octal digits. */
function unescapeField(field: string): string {
  return field.replace(/\\([0-7]{3})/g, (_, octal: string) => String.fromCharCode(Number.parseInt(octal, 8)));
}
