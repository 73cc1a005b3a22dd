import { readFile } from 'node:fs/promises';
import { constants } from 'node:os';
import { lastErrno, loadLibrary } from '../format/native.ts';

const MS_RDONLY = 1;
const MNT_DETACH = 2;
const UMOUNT_NOFOLLOW = 8;
/** Not in Node's list on every version. */
const ENOTBLK = 15;

/** A failed mount(2) or umount2(2). */
export class SystemCallError extends Error {
  override readonly name = 'SystemCallError';
  /** The system's name of the error: EBUSY, EINVAL, … */
  readonly code: string;

  constructor(call: string, errno: number) {
    const names = Object.entries(constants.errno);
    const code =
      errno === ENOTBLK ? 'ENOTBLK' : (names.find(([, number]) => number === errno)?.[0] ?? `E${errno}`);
    super(`${call}: ${code}`);
    this.code = code;
  }
}

type NativeCall = (...args: unknown[]) => Promise<void>;

/**
 * A function of libc that returns 0 or sets errno, called on another thread: a mount reads its device, and the
 * device is served by this thread.
 */
function nativeCall(name: string, declaration: string): NativeCall {
  const call = loadLibrary('libc.so.6', 'libc6').func(declaration);
  return (...args) =>
    new Promise((resolve, reject) => {
      call.async(...args, (error: unknown, result: number) => {
        if (error) reject(error);
        else if (result !== 0) reject(new SystemCallError(`${name}(${args[0]}, …)`, lastErrno()));
        else resolve();
      });
    });
}

let mountCall: NativeCall | null = null;
let unmountCall: NativeCall | null = null;

/** mount(2), read-only. Without mount(8): that would put a loop device under what is a file. */
export async function mountReadOnly(
  source: string,
  target: string,
  fsType: string,
  data: string | null,
): Promise<void> {
  mountCall ??= nativeCall(
    'mount',
    'int mount(const char *, const char *, const char *, unsigned long, const char *)',
  );
  await mountCall(source, target, fsType, MS_RDONLY, data);
}

/**
 * umount2(2). Lazily: the directory is free at once, the file system ends when its last user does.
 * @throws SystemCallError EBUSY if somebody uses it, EINVAL if nothing is mounted there
 */
export async function unmount(target: string, options: { readonly lazy: boolean }): Promise<void> {
  unmountCall ??= nativeCall('umount2', 'int umount2(const char *, int)');
  await unmountCall(target, UMOUNT_NOFOLLOW | (options.lazy ? MNT_DETACH : 0));
}

export interface MountEntry {
  readonly target: string;
  /** What was mounted: a device, a file, or a name. */
  readonly source: string;
  readonly fsType: string;
}

/** All mounts that this process sees, the last one on a directory last (proc_pid_mountinfo(5)). */
export async function listSystemMounts(): Promise<MountEntry[]> {
  const text = await readFile('/proc/self/mountinfo', 'utf8');
  return text.split('\n').flatMap((line) => {
    const [before, after] = line.split(' - ');
    const target = before?.split(' ')[4];
    const [fsType, source] = after?.split(' ') ?? [];
    if (target === undefined || fsType === undefined || source === undefined) return [];
    return [{ target: unescapeField(target), source: unescapeField(source), fsType }];
  });
}

/** Space, tab, newline and backslash come as three octal digits. */
function unescapeField(field: string): string {
  return field.replace(/\\([0-7]{3})/g, (_, octal: string) => String.fromCharCode(Number.parseInt(octal, 8)));
}
