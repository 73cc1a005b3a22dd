import type { TableFiles } from './table-files.ts';

/** A chunk that may be dropped, as long as it has not been used since. */
export interface Victim {
  readonly files: TableFiles;
  readonly index: number;
  readonly lastUse: number;
}

/** Looking for them costs a pass over all chunks, so more than one are looked for. */
const MOST = 256;

/** The chunks that were used least recently and may be dropped, the oldest first. */
export function oldestChunks(tables: Iterable<TableFiles>): Victim[] {
  let found: Victim[] = [];
  let newest = Number.POSITIVE_INFINITY;
  const keepOldest = () => {
    found = found.sort((a, b) => a.lastUse - b.lastUse).slice(0, MOST);
    if (found.length === MOST) newest = found.at(-1)!.lastUse;
  };
  for (const files of tables) {
    for (let index = 0; index < files.lastUse.length; index++) {
      const lastUse = files.lastUse[index]!;
      if (lastUse === 0 || lastUse >= newest || !files.mayDrop(index)) continue;
      found.push({ files, index, lastUse });
      if (found.length === 4 * MOST) keepOldest();
    }
  }
  keepOldest();
  return found;
}
