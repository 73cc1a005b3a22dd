import { constants, existsSync } from 'node:fs';
import { access } from 'node:fs/promises';
import { release } from 'node:os';
import { getuid, version } from 'node:process';
import type { FsType } from '../image/fs-type.ts';
import type { AttachMethod } from './attach-contract.ts';
import { canReadDescriptors } from './descriptor-reader.ts';
import {
  EROFS_FROM_FILE_SINCE,
  isSince,
  type KernelVersion,
  kernelVersion,
  NBD_NAMES_SINCE,
} from './kernel-version.ts';

/** What of this machine decides how devices are attached. */
export interface AttachHost {
  readonly isRoot: boolean;
  readonly hasFuse: boolean;
  /** This Node.js lets us wait for FUSE requests. */
  readonly canServeFuse: boolean;
  /** The kernel's NBD client is there, and loaded. */
  readonly hasNbd: boolean;
  readonly kernel: KernelVersion;
}

/** `reason` is for people: why this one, or what is missing and what to do about it. */
export type MethodChoice =
  | { readonly kind: 'chosen'; readonly method: AttachMethod; readonly reason: string }
  | { readonly kind: 'unsupported'; readonly reason: string };

export async function inspectHost(): Promise<AttachHost> {
  return {
    isRoot: getuid?.() === 0,
    hasFuse: await access('/dev/fuse', constants.R_OK | constants.W_OK).then(
      () => true,
      () => false,
    ),
    hasNbd: existsSync('/sys/module/nbd'),
    canServeFuse: canReadDescriptors(),
    kernel: kernelVersion(release()),
  };
}

/** The best way to mount a file system of that type here. */
export function chooseMethod(fsType: FsType, host: AttachHost): MethodChoice {
  if (!host.isRoot) return { kind: 'unsupported', reason: 'mounting needs root' };
  const isFuseUsable = host.hasFuse && host.canServeFuse;
  if (fsType === 'erofs' && isSince(host.kernel, EROFS_FROM_FILE_SINCE) && isFuseUsable) {
    return { kind: 'chosen', method: 'file', reason: 'this kernel mounts EROFS straight from a file' };
  }
  const why =
    fsType === 'erofs'
      ? `Linux ${host.kernel.join('.')} mounts EROFS from block devices only; from ${EROFS_FROM_FILE_SINCE.join('.')} on it needs none`
      : `${fsType} is mounted from block devices only`;
  if (host.hasNbd && isSince(host.kernel, NBD_NAMES_SINCE)) {
    return { kind: 'chosen', method: 'nbd', reason: `${why}; this kernel has NBD` };
  }
  if (isFuseUsable) return { kind: 'chosen', method: 'loop', reason: why };
  return { kind: 'unsupported', reason: `${whatFuseLacks(host)}; NBD would do too ("modprobe nbd")` };
}

function whatFuseLacks({ hasFuse }: AttachHost): string {
  return hasFuse
    ? `this Node.js (${version}) no longer has the pipe handle that FUSE is served by: use the newest Node.js 24`
    : 'there is no /dev/fuse: load the module ("modprobe fuse"), or give the container that device';
}
