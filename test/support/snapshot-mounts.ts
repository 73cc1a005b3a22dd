import { dirname } from 'node:path';
import type { Mount } from '../../src/client/snapshotter/snapshots-api.ts';
import { run } from './processes.ts';

/** mount(2) takes a page of options. */
const MAX_OPTIONS_BYTES = 4000;
const LOWER = 'lowerdir=';

/** Mounts what a snapshotter says, as containerd does, runs `work`, and unmounts it. Needs `root`. */
export async function withMounted<T>(
  mounts: readonly Mount[],
  target: string,
  work: () => T | Promise<T>,
): Promise<T> {
  for (const mount of mounts) await mountOne(mount, target);
  try {
    return await work();
  } finally {
    for (const _ of mounts) await run('umount', [target]);
  }
}

async function mountOne({ type, source, options }: Mount, target: string): Promise<void> {
  const text = options.join(',');
  const short = text.length <= MAX_OPTIONS_BYTES ? null : shortened(options);
  const args = [...(type === 'bind' ? [] : ['-t', type]), '-o', short?.options ?? text, source, target];
  await run('mount', args, short === null ? {} : { cwd: short.directory });
}

/** The options with lower directories as they are named from the directory where all of them stand. */
function shortened(options: readonly string[]): { options: string; directory: string } {
  const lower =
    options
      .find((option) => option.startsWith(LOWER))
      ?.slice(LOWER.length)
      .split(':') ?? [];
  const directory = dirname(dirname(lower[0]!));
  const names = lower.map((path) => path.slice(directory.length + 1));
  const others = options.filter((option) => !option.startsWith(LOWER));
  return { options: [...others, LOWER + names.join(':')].join(','), directory };
}
