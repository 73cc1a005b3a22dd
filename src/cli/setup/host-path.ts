import { readlinkSync } from 'node:fs';
import { join } from 'node:path';
import { isSystemError } from '../../format/error-code.ts';
import { SetupError } from './setup-error.ts';

/** As the kernel has it (path_resolution(7)). */
const MAX_LINKS = 40;

/**
 * Where a path of a host leads whose root directory is mounted here: as after chroot(2), so that no link of an image
 * leads out of it. The end of it, and directories before, may be missing.
 * @param path absolute, on that host
 * @returns absolute, here
 * @throws SetupError for links without end
 */
export function resolveOnHost(root: string, path: string): string {
  const done: string[] = [];
  const pending = partsOf(path);
  let links = 0;
  for (let part = pending.shift(); part !== undefined; part = pending.shift()) {
    if (part === '..') {
      done.pop();
      continue;
    }
    const target = linkTarget(join(root, ...done, part));
    if (target === null) {
      done.push(part);
      continue;
    }
    if (++links > MAX_LINKS) throw new SetupError(`${path} leads through too many links`);
    if (target.startsWith('/')) done.length = 0;
    pending.unshift(...partsOf(target));
  }
  return join(root, ...done);
}

function partsOf(path: string): string[] {
  return path.split('/').filter((part) => part !== '' && part !== '.');
}

/** Null if it is no link, or not there. */
function linkTarget(path: string): string | null {
  try {
    return readlinkSync(path);
  } catch (error) {
    if (isSystemError(error, 'EINVAL', 'ENOENT', 'ENOTDIR')) return null;
    throw error;
  }
}
