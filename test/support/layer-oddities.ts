import type { LayerEntry } from '../../src/format/layer-entry.ts';
import type { TreeSnapshot } from './tree-snapshot.ts';

/**
 * What is unusual about a layer, in words: generators of random layers are judged by how much of it they bring.
 * @param below the tree that the layer is put on
 */
export function odditiesOf(entries: readonly LayerEntry[], below: TreeSnapshot): Set<string> {
  const found = new Set<string>();
  for (const [index, entry] of entries.entries()) {
    for (const oddity of ofEntry(entry, entries.slice(0, index), entries.slice(index + 1), below))
      found.add(oddity);
  }
  return found;
}

function* ofEntry(
  entry: LayerEntry,
  before: readonly LayerEntry[],
  after: readonly LayerEntry[],
  below: TreeSnapshot,
): Generator<string> {
  const { kind, path } = entry;
  const lower = below.get(path);
  const makes = ({ kind }: LayerEntry) => kind !== 'whiteout' && kind !== 'opaque';
  const here = ({ path: other }: LayerEntry) => other === path;
  const inside = ({ path: other }: LayerEntry) => other.startsWith(`${path}/`);
  const others = [...before, ...after];
  if (kind === 'whiteout') {
    if (lower === undefined) yield 'whiteout of what is not there';
    if (before.some((other) => makes(other) && here(other)))
      yield 'whiteout after what the layer creates there';
    if (after.some((other) => makes(other) && here(other)))
      yield 'whiteout before what the layer creates there';
    if (lower !== undefined && lower.type !== 'directory' && lower.nlink > 1)
      yield 'whiteout of one name of many';
    if (lower?.type === 'directory') yield 'whiteout of a directory';
  } else if (kind === 'opaque') {
    if (before.some((other) => makes(other) && inside(other))) yield 'opaque marker behind siblings';
    if (after.some((other) => makes(other) && inside(other))) yield 'opaque marker before siblings';
    if (lower === undefined) yield 'opaque marker in a directory that is not below';
    if (lower?.type === 'symlink') yield 'opaque marker in a link';
  } else {
    const last = before.findLast((other) => makes(other) && here(other));
    if (last !== undefined) yield 'entry repeated';
    const type = last?.kind ?? lower?.type;
    if (kind !== 'directory' && type === 'directory') yield 'directory replaced by something else';
    if (kind === 'directory' && type !== undefined && type !== 'directory')
      yield 'something replaced by a directory';
    if (kind === 'file' && last?.kind === 'file') yield 'file replaced in one layer';
    const parents = path
      .split('/')
      .slice(0, -1)
      .map((_, i, names) => names.slice(0, i + 1).join('/'));
    for (const parent of parents) {
      const own = others.some((other) => makes(other) && other.path === parent);
      if (!own && !below.has(parent)) yield 'parent that no layer lists';
      if (below.get(parent)?.type === 'symlink' && !own) yield 'path through a link of a layer below';
    }
    if (path.split('/').some((name) => name.length === 255)) yield 'name of 255 bytes';
    if (/[^ -~]/.test(path)) yield 'name that is not text';
  }
  if (kind === 'hardlink') {
    const target = below.get(entry.target);
    const own = others.some((other) => other.path === entry.target);
    if (target !== undefined && !own) yield 'hard link to a layer below';
    if (target?.type === 'symlink' && !own) yield 'hard link to a symbolic link';
    if (!before.some((other) => other.path === entry.target) && own && target === undefined)
      yield 'hard link before its target';
    if (others.some((other) => other.kind === 'whiteout' && other.path === entry.target))
      yield 'hard link whose target the layer hides';
  }
  if ('attributes' in entry && makes(entry)) {
    const { uid, mtimeSeconds, xattrs } = entry.attributes;
    if (uid >= 2 ** 31) yield 'owner past 31 bits';
    if (mtimeSeconds < 0) yield 'time before 1970';
    if (mtimeSeconds >= 2 ** 32) yield 'time past 32 bits';
    if ([...xattrs.values()].some((value) => value.length > 4096)) yield 'xattr of more than a block';
  }
}

/** All that {@link odditiesOf} can find. */
export const ODDITIES: readonly string[] = [
  'whiteout of what is not there',
  'whiteout after what the layer creates there',
  'whiteout before what the layer creates there',
  'whiteout of one name of many',
  'whiteout of a directory',
  'opaque marker behind siblings',
  'opaque marker before siblings',
  'opaque marker in a directory that is not below',
  'opaque marker in a link',
  'entry repeated',
  'directory replaced by something else',
  'something replaced by a directory',
  'file replaced in one layer',
  'parent that no layer lists',
  'path through a link of a layer below',
  'name of 255 bytes',
  'name that is not text',
  'hard link to a layer below',
  'hard link to a symbolic link',
  'hard link before its target',
  'hard link whose target the layer hides',
  'owner past 31 bits',
  'time before 1970',
  'time past 32 bits',
  'xattr of more than a block',
];
