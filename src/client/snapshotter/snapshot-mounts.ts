import { existsSync } from 'node:fs';
import type { Mount } from './snapshots-api.ts';

/** What a snapshot's root file system is made of. */
export interface SnapshotLayers {
  /** Null for a view: nothing is written. */
  readonly upper: { readonly fs: string; readonly work: string } | null;
  /** Directories below, the topmost first. */
  readonly lower: readonly string[];
}

/** With an index, overlayfs refuses an upper directory that an earlier mount of it left elsewhere. */
const INDEX_PARAMETER = '/sys/module/overlay/parameters/index';

/** The mount that shows these layers as one tree. */
export function mountOf({ upper, lower }: SnapshotLayers): Mount {
  const [top] = lower;
  if (upper === null && top !== undefined && lower.length === 1) return bind(top, 'ro');
  // overlayfs needs something below.
  if (upper !== null && top === undefined) return bind(upper.fs, 'rw');
  const written = upper === null ? [] : [`workdir=${upper.work}`, `upperdir=${upper.fs}`];
  const index = existsSync(INDEX_PARAMETER) ? ['index=off'] : [];
  return {
    type: 'overlay',
    source: 'overlay',
    options: [...index, ...written, `lowerdir=${lower.join(':')}`],
  };
}

function bind(source: string, access: 'ro' | 'rw'): Mount {
  return { type: 'bind', source, options: [access, 'rbind'] };
}
