import { constants } from 'node:fs';
import { access, open, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { type Finding, good, limited, missing } from './finding.ts';

/** `6.12.3-cloud` is [6, 12]. */
type KernelVersion = readonly [major: number, minor: number];

const EROFS_SINCE: KernelVersion = [5, 4];
/** Linux mounts EROFS straight from a file since then. */
const EROFS_FROM_FILE_SINCE: KernelVersion = [6, 12];
/** Linux sends unanswered FUSE requests again when it is asked to (FUSE_NOTIFY_RESEND) since then. */
const FUSE_RESEND_SINCE: KernelVersion = [6, 9];

/** Whether the kernel has something: in it, as a module that it loads when it is needed, or not at all. */
type Presence = 'there' | 'module' | 'none';

/** @param release as uname(2) has it */
export async function kernelFindings(release: string): Promise<Finding[]> {
  return [
    kernel(release),
    await fuse(),
    fuseResend(release),
    await erofs(release),
    await loop(release),
    await overlay(release),
    await nbd(release),
  ];
}

function kernel(release: string): Finding {
  const name = 'kernel';
  if (isSince(release, EROFS_FROM_FILE_SINCE)) {
    return good(name, `Linux ${release}`, 'images are mounted straight from a file, without loop devices');
  }
  if (isSince(release, EROFS_SINCE)) {
    return limited(
      name,
      `Linux ${release}`,
      'each mounted image takes a loop device, which makes reads of uncached data slower',
      'Linux 6.12 or newer mounts images straight from a file',
    );
  }
  return missing(name, `Linux ${release}`, 'it cannot mount EROFS', 'Linux 5.4, better 6.12 or newer');
}

async function fuse(): Promise<Finding> {
  const name = '/dev/fuse';
  try {
    await (await open('/dev/fuse', 'r+')).close();
    return good(name, 'it can be opened', 'devices are files that the daemon serves');
  } catch (error) {
    const code = codeOf(error);
    return missing(
      name,
      code === 'ENOENT' ? 'it is not there' : `it cannot be opened (${code})`,
      'no image can be mounted lazily',
      code === 'ENOENT'
        ? 'load the module ("modprobe fuse"), or give the container that device'
        : 'run as root; in a container, allow it that device ("--device /dev/fuse")',
    );
  }
}

function fuseResend(release: string): Finding {
  const name = 'restart under load';
  if (isSince(release, FUSE_RESEND_SINCE)) {
    return good(name, 'FUSE sends requests again', 'reads that were under way when the daemon died go on');
  }
  return limited(
    name,
    `FUSE of Linux ${release} does not send requests again`,
    'reads that the daemon had taken when it died get an I/O error; all others wait for the next daemon',
    'Linux 6.9 or newer',
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

async function loop(release: string): Promise<Finding> {
  const name = 'loop devices';
  const isThere = await access('/dev/loop-control', constants.R_OK | constants.W_OK).then(
    () => true,
    () => false,
  );
  if (isThere)
    return good(name, '/dev/loop-control', 'for ext4 images of stock overlaybd, and for older kernels');
  const found = 'there is no /dev/loop-control';
  const better = 'load the module ("modprobe loop"), or give the container that device';
  if (isSince(release, EROFS_FROM_FILE_SINCE)) {
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

async function nbd(release: string): Promise<Finding> {
  const isLoaded = await access('/sys/module/nbd').then(
    () => true,
    () => false,
  );
  const presence = isLoaded ? 'there' : await module('nbd', release);
  if (presence === 'none') {
    return good('kernel NBD', 'none', 'nothing is lost: images are attached by FUSE');
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

function isSince(release: string, [major, minor]: KernelVersion): boolean {
  const [haveMajor = 0, haveMinor = 0] = release.split('.').map((part) => Number.parseInt(part, 10));
  return haveMajor > major || (haveMajor === major && haveMinor >= minor);
}

function codeOf(error: unknown): string {
  return error instanceof Error && 'code' in error ? String(error.code) : String(error);
}
