import { setFlagsFromString } from 'node:v8';

/**
 * Keeps the part of the heap where new objects are made as small as it begins, 1 MB. It would grow to 16 MB: then what
 * lives is copied seldom, but much at once, in the midst of a container's start, and into fresh memory. One thread does it,
 * for so little is copied before another one has woken up. To be called first of all: what has grown stays.
 */
export function keepYoungGenerationSmall(): void {
  for (const flag of ['--semi-space-growth-factor=1', '--no-parallel-scavenge']) setFlagsFromString(flag);
}
