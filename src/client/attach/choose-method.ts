import { constants, existsSync } from 'node:fs';
import { access } from 'node:fs/promises';
import { release } from 'node:os';
import { getuid } from 'node:process';
import type { FsType } from '../image/fs-type.ts';
import type { AttachMethod } from './attach-contract.ts';

/** What of this machine decides how devices are attached. */
export interface AttachHost {
  readonly isRoot: boolean;
  readonly hasFuse: boolean;
  /** The kernel's NBD client is there, and loaded. */
  readonly hasNbd: boolean;
  /** Major and minor version. */
  readonly kernel: readonly [number, number];
}

/** `reason` is for people: why this one, or what is missing and what to do about it. */
export type MethodChoice =
  | { readonly kind: 'chosen'; readonly method: AttachMethod; readonly reason: string }
  | { readonly kind: 'unsupported'; readonly reason: string };

/** Linux has mounted EROFS straight from a file, without a loop device, since then. */
const EROFS_FROM_FILE_SINCE = [6, 12] as const;

export async function inspectHost(): Promise<AttachHost> {
  const [major = 0, minor = 0] = release()
    .split('.')
    .map((part) => Number.parseInt(part, 10));
  return {
    isRoot: getuid?.() === 0,
    hasFuse: await access('/dev/fuse', constants.R_OK | constants.W_OK).then(
      () => true,
      () => false,
    ),
    hasNbd: existsSync('/sys/module/nbd'),
    kernel: [major, minor],
  };
}

/** The best way to mount a file system of that type here. */
export function chooseMethod(fsType: FsType, host: AttachHost): MethodChoice {
  if (!host.isRoot) return { kind: 'unsupported', reason: 'mounting needs root' };
  const [major, minor] = host.kernel;
  const [sinceMajor, sinceMinor] = EROFS_FROM_FILE_SINCE;
  const isNew = major > sinceMajor || (major === sinceMajor && minor >= sinceMinor);
  if (fsType === 'erofs' && isNew && host.hasFuse) {
    return { kind: 'chosen', method: 'file', reason: 'this kernel mounts EROFS straight from a file' };
  }
  const why =
    fsType === 'erofs'
      ? `Linux ${major}.${minor} mounts EROFS from block devices only; from ${sinceMajor}.${sinceMinor} on it needs none`
      : `${fsType} is mounted from block devices only`;
  if (host.hasNbd) return { kind: 'chosen', method: 'nbd', reason: `${why}; this kernel has NBD` };
  if (host.hasFuse) return { kind: 'chosen', method: 'loop', reason: why };
  return {
    kind: 'unsupported',
    reason:
      'there is no /dev/fuse: load the module ("modprobe fuse"), or give the container that device; NBD would do too ("modprobe nbd")',
  };
}
