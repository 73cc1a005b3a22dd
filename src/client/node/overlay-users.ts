import { readFile } from 'node:fs/promises';

/**
 * The directories on which overlays are mounted that have one of these below them (proc_pid_mountinfo(5)). The
 * kernel lets a file system be unmounted that an overlay reads from, and only the overlay's users would notice.
 */
export async function overlaysOn(directories: readonly string[]): Promise<string[]> {
  const wanted = new Set(directories);
  const text = await readFile('/proc/self/mountinfo', 'utf8');
  return text.split('\n').flatMap((line) => {
    const [before = '', after = ''] = line.split(' - ');
    const [fsType, , options = ''] = after.split(' ');
    if (fsType !== 'overlay') return [];
    const lower = options.split(',').flatMap((option) => {
      const [, value] = /^lowerdir\+?=(.*)$/.exec(option) ?? [];
      return value?.split(':') ?? [];
    });
    return lower.some((each) => wanted.has(each)) ? [before.split(' ')[4] ?? ''] : [];
  });
}
