import { constants } from 'node:fs';
import { access, open, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { version } from 'node:process';
import { errorCode } from '../../format/error-code.ts';
import type { AttachMethod } from '../attach/attach-contract.ts';
import { type AttachHost, chooseMethod, type MethodChoice } from '../attach/choose-method.ts';
import {
  EROFS_FROM_FILE_SINCE,
  EROFS_SINCE,
  FUSE_RESEND_SINCE,
  isSince,
  type KernelVersion,
  NBD_NAMES_SINCE,
  PIDFD_GETFD_SINCE,
} from '../attach/kernel-version.ts';
import { type Finding, good, limited, missing } from './finding.ts';

/** Whether the kernel has something: in it, as a module that it loads when it is needed, or not at all. */
type Presence = 'there' | 'module' | 'none';

const WITHOUT_FUSE = 'images can be mounted by kernel NBD only';
const WAYS: Readonly<Record<AttachMethod, string>> = {
  file: 'straight from a file',
  loop: 'by a loop device on a file',
  nbd: 'by kernel NBD',
};

/** @param release as uname(2) has it */
export async function kernelFindings(release: string, host: AttachHost): Promise<Finding[]> {
  const { kernel } = host;
  const choice = chooseMethod('erofs', host);
  const withoutFuse = choice.kind === 'chosen' ? limited : missing;
  return [
    kernelVersion(kernel, release),
    mounts(choice, host),
    await fuse(withoutFuse),
    nodeServesFuse(host, withoutFuse),
    restart(kernel, release),
    await erofs(release),
    await loop(kernel),
    await overlay(release),
    await nbd(host, release),
  ];
}

function kernelVersion(kernel: KernelVersion, release: string): Finding {
  const name = 'kernel';
  if (isSince(kernel, EROFS_FROM_FILE_SINCE)) {
    return good(name, `Linux ${release}`, 'it mounts EROFS straight from a file, without loop devices');
  }
  if (isSince(kernel, EROFS_SINCE)) {
    return limited(
      name,
      `Linux ${release}`,
      'it mounts EROFS from block devices only, which makes reads of uncached data slower',
      'Linux 6.12 or newer mounts images straight from a file',
    );
  }
  return missing(name, `Linux ${release}`, 'it cannot mount EROFS', 'Linux 5.6, better 6.12 or newer');
}

/** What the daemon does here. */
function mounts(erofs: MethodChoice, host: AttachHost): Finding {
  const name = 'mounts';
  if (erofs.kind === 'unsupported') {
    return missing(name, 'there is no way to mount an image', 'the daemon does not start', erofs.reason);
  }
  const ext4 = chooseMethod('ext4', host);
  const found = `EROFS ${WAYS[erofs.method]}${ext4.kind === 'chosen' ? `, ext4 ${WAYS[ext4.method]}` : ''}`;
  return good(name, found, erofs.reason);
}

/** @param without what it is to lack it */
async function fuse(without: typeof missing): Promise<Finding> {
  const name = '/dev/fuse';
  try {
    await (await open('/dev/fuse', 'r+')).close();
    return good(name, 'it can be opened', 'devices are files that the daemon serves');
  } catch (error) {
    const code = errorCode(error) ?? String(error);
    return without(
      name,
      code === 'ENOENT' ? 'it is not there' : `it cannot be opened (${code})`,
      WITHOUT_FUSE,
      code === 'ENOENT'
        ? 'load the module ("modprobe fuse"), or give the container that device'
        : 'run as root; in a container, allow it that device ("--device /dev/fuse")',
    );
  }
}

function nodeServesFuse({ canServeFuse }: AttachHost, without: typeof missing): Finding {
  const name = 'Node.js';
  if (canServeFuse) return good(name, version, 'it can wait for requests of FUSE');
  return without(
    name,
    `${version} no longer has the pipe handle that FUSE is served by`,
    WITHOUT_FUSE,
    'the newest Node.js 24',
  );
}

function restart(kernel: KernelVersion, release: string): Finding {
  const name = 'restart under load';
  if (isSince(kernel, FUSE_RESEND_SINCE)) {
    return good(name, 'FUSE sends requests again', 'reads that were under way when the daemon died go on');
  }
  if (isSince(kernel, PIDFD_GETFD_SINCE)) {
    return limited(
      name,
      `FUSE of Linux ${release} does not send requests again`,
      'reads that the daemon had taken when it was killed get an I/O error from the next one; all others wait for it',
      'Linux 6.9 or newer',
    );
  }
  return limited(
    name,
    `Linux ${release} does not let a process take over what another has open`,
    'no daemon can take up the mounts of an earlier one: containers that use them get I/O errors',
    'Linux 5.6, better 6.9 or newer',
  );
}

async function erofs(release: string): Promise<Finding> {
  const presence = await fileSystem('erofs', release);
  if (presence === 'none') {
    return missing(
      'EROFS',
      'the kernel has it neither built in nor as a module',
      'images that a dadi proxy converted cannot be mounted',
      'a kernel with CONFIG_EROFS_FS; on Debian and Ubuntu the usual ones have it as a module',
    );
  }
  return good('EROFS', described(presence), 'images that a dadi proxy converted can be mounted');
}

async function loop(kernel: KernelVersion): Promise<Finding> {
  const name = 'loop devices';
  const isThere = await access('/dev/loop-control', constants.R_OK | constants.W_OK).then(
    () => true,
    () => false,
  );
  if (isThere)
    return good(name, '/dev/loop-control', 'for ext4 images of stock overlaybd, and for older kernels');
  const found = 'there is no /dev/loop-control';
  const better = 'load the module ("modprobe loop"), or give the container that device';
  if (isSince(kernel, EROFS_FROM_FILE_SINCE)) {
    return limited(name, found, 'ext4 images of stock overlaybd cannot be mounted', better);
  }
  return missing(name, found, 'this kernel mounts no image without one', better);
}

async function overlay(release: string): Promise<Finding> {
  const presence = await fileSystem('overlay', release);
  if (presence !== 'none')
    return good('overlayfs', described(presence), "containers can write over an image's files");
  return missing(
    'overlayfs',
    'the kernel has it neither built in nor as a module',
    'no container can be started from an image',
    'a kernel with CONFIG_OVERLAY_FS',
  );
}

async function nbd({ kernel, hasNbd }: AttachHost, release: string): Promise<Finding> {
  const presence = hasNbd ? 'there' : await module('nbd', release);
  if (presence === 'none') {
    return good('kernel NBD', 'none', 'nothing is lost: images are attached by FUSE');
  }
  if (!isSince(kernel, NBD_NAMES_SINCE)) {
    const lack = `Linux ${release} gives its devices no names`;
    return good('kernel NBD', lack, 'it is not used: images are attached by FUSE');
  }
  if (presence === 'module') {
    const use = '"modprobe nbd" lets it take the place of FUSE and loop devices';
    return good('kernel NBD', 'a module that is not loaded', use);
  }
  return good(
    'kernel NBD',
    'loaded',
    'it takes the place of FUSE and loop devices where EROFS needs a device',
  );
}

async function fileSystem(name: string, release: string): Promise<Presence> {
  const known = await readFile('/proc/filesystems', 'utf8');
  if (known.split('\n').some((line) => line.split('\t').at(-1) === name)) return 'there';
  return module(name, release);
}

/** By the lists that depmod(8) keeps. */
async function module(name: string, release: string): Promise<Presence> {
  const pattern = new RegExp(`/${name}\\.ko(?:\\.\\w+)?(?::|$)`, 'm');
  for (const [file, presence] of [
    ['modules.builtin', 'there'],
    ['modules.dep', 'module'],
  ] as const) {
    const text = await readFile(join('/lib/modules', release, file), 'utf8').catch(() => '');
    if (pattern.test(text)) return presence;
  }
  return 'none';
}

function described(presence: Presence): string {
  return presence === 'there' ? 'in the kernel' : 'a module that the kernel loads when it is needed';
}
