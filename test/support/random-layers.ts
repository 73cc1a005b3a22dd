import fc from 'fast-check';
import type { ByteString } from '../../src/format/byte-string.ts';
import type { Attributes, LayerEntry } from '../../src/format/layer-entry.ts';
import { type BlockDevice, LayerDraft, type StackedLayer } from './erofs-device.ts';
import { LayerModel, ModelConflict } from './layer-model.ts';
import { contentHash } from './tree-snapshot.ts';

/** One change, its path still to be chosen from what the tree holds by then. */
export interface Operation {
  readonly kind: LayerEntry['kind'];
  readonly names: readonly ByteString[];
  readonly place: Place;
  readonly pick: number;
  readonly size: number;
  readonly target: ByteString;
  readonly attributes: Omit<Attributes, 'xattrs'>;
  readonly xattrs: XattrLengths;
}

type Place =
  /** Under the first name, at the root. */
  | 'top'
  /** Where something stands already, in this layer or below. */
  | 'existing'
  /** Below a directory or link that exists. */
  | 'below'
  /** Where the change before was made: the last one wins, takes away, or is hidden. */
  | 'same'
  /** Below the change before, and beside it. */
  | 'inside'
  | 'beside';

/** The longest that Linux takes. */
const LONG_NAMES = ['L'.repeat(255), '\xfe'.repeat(255)];
/** Few, so that layers meet; "-" and "!" sort before ".", and some are not UTF-8. */
const NAMES = [
  'a',
  'b',
  'c',
  'd',
  '-',
  '!x',
  '\xff',
  'caf\xe9',
  '..data',
  '...',
  '.wh',
  '\x01\n ',
  ...LONG_NAMES,
];
/** Names may add up, but not beyond what the kernel takes. */
const MAX_PATH_BYTES = 3000;
/** Around the limits of what stands behind an inode, and of blocks. */
const SIZES = [0, 1, 31, 32, 127, 128, 129, 2000, 4031, 4032, 4033, 4095, 4096, 4097, 4224, 4225, 9000];
const TARGETS = [
  'a',
  'b',
  '/a',
  '../b',
  'a/b',
  '/b/../c',
  '../../../c',
  './d',
  'missing',
  '/',
  '..',
  'a'.repeat(200),
  `${'./'.repeat(2047)}a`,
];

/** Names, and lengths of the values: the values themselves would drown a report. */
type XattrLengths = readonly (readonly [name: string, length: number])[];

const xattrs: fc.Arbitrary<XattrLengths> = fc.array(
  fc.tuple(
    fc.constantFrom('user.a', 'user.b', 'security.c', `user.${'n'.repeat(200)}`),
    fc.constantFrom(0, 1, 3, 20, 700, 3900, 4100, 20_000, 65_535),
  ),
  { maxLength: 3 },
);

/** Before 1970, the year 1, past 32 bits signed and unsigned, the year 9999. */
const MTIMES = [0, 1_700_000_000, -1, -(2 ** 31) - 1, -62_135_596_800, 2 ** 31, 2 ** 33, 253_402_300_799];

const attributes: fc.Arbitrary<Omit<Attributes, 'xattrs'>> = fc.record({
  mode: fc.constantFrom(0o644, 0o755, 0o4711, 0o1777, 0),
  uid: fc.constantFrom(0, 1000, 65_535, 65_536, 2 ** 31, 0xffff_fffe),
  gid: fc.constantFrom(0, 5, 100_000, 2 ** 31 - 1, 0xffff_fffe),
  mtimeSeconds: fc.constantFrom(...MTIMES),
  mtimeNanoseconds: fc.constantFrom(0, 1, 999_999_999),
});

const operation: fc.Arbitrary<Operation> = fc.record({
  kind: fc.oneof(
    { weight: 8, arbitrary: fc.constant('file' as const) },
    { weight: 8, arbitrary: fc.constant('directory' as const) },
    { weight: 3, arbitrary: fc.constant('symlink' as const) },
    { weight: 4, arbitrary: fc.constant('hardlink' as const) },
    { weight: 4, arbitrary: fc.constant('whiteout' as const) },
    { weight: 3, arbitrary: fc.constant('opaque' as const) },
    { weight: 1, arbitrary: fc.constantFrom('character' as const, 'block' as const, 'fifo' as const) },
  ),
  names: fc.array(fc.constantFrom(...NAMES), { minLength: 1, maxLength: 3 }),
  place: fc.constantFrom('top', 'top', 'existing', 'existing', 'below', 'below', 'same', 'inside', 'beside'),
  pick: fc.nat(),
  size: fc.constantFrom(...SIZES),
  target: fc.constantFrom(...TARGETS),
  attributes,
  xattrs: fc.oneof({ weight: 3, arbitrary: fc.constant([]) }, { weight: 1, arbitrary: xattrs }),
});

/** Layers, bottom first. */
export function stackOfLayers(): fc.Arbitrary<Operation[][]> {
  return fc.array(fc.array(operation, { minLength: 1, maxLength: 12 }), { minLength: 1, maxLength: 5 });
}

/** A layer of a stack, on the device of those below it. */
export interface StackStep {
  readonly draft: LayerDraft;
  /** Of a file. */
  readonly contentOf: (entry: LayerEntry) => Buffer;
  /** What the layers below made; null for the lowest. */
  readonly below: BlockDevice | null;
  /** Holds this layer's tree when the layer is accepted, else that below. */
  readonly model: LayerModel;
  /** The layer built, or null where the image specification's model refuses it: then it is left out. */
  readonly built: StackedLayer | null;
}

/** Builds a stack, layer on layer. */
export async function* buildStack(stack: readonly Operation[][]): AsyncGenerator<StackStep> {
  const model = new LayerModel();
  let below: BlockDevice | null = null;
  for (const operations of stack) {
    const { draft, contentOf, shownOf } = draftOf(operations, model);
    const built: StackedLayer | null = accepts(model, draft, shownOf) ? await draft.on(below) : null;
    yield { draft, contentOf, below, model, built };
    below = built?.device ?? below;
  }
}

function accepts(model: LayerModel, draft: LayerDraft, shownOf: (entry: LayerEntry) => string): boolean {
  try {
    model.apply(draft.entries, shownOf);
    return true;
  } catch (error) {
    if (error instanceof ModelConflict) return false;
    throw error;
  }
}

/** Makes a layer of operations on what `model` holds; `shownOf` says what a snapshot shows of an entry. */
function draftOf(
  operations: readonly Operation[],
  model: LayerModel,
): {
  draft: LayerDraft;
  contentOf: (entry: LayerEntry) => Buffer;
  shownOf: (entry: LayerEntry) => string;
} {
  const draft = new LayerDraft();
  const files = new Map<LayerEntry, Buffer>();
  const shown = new Map<LayerEntry, string>();
  const paths = model.paths();
  const leaves = model.leaves();
  /** Directories and links, in which more can be put. */
  const parents = model.parents();
  let before: ByteString = '';
  for (const operation of operations) {
    const path = pathOf(operation, { before, paths, parents });
    before = path;
    const given = attributesOf(operation);
    if (operation.kind === 'file') {
      const content = Buffer.alloc(operation.size, `${path} ${operation.pick}`, 'latin1');
      // Zeros for sparse files to leave out.
      if (operation.pick % 3 === 0)
        content.fill(0, Math.min(600, content.length), Math.min(8200, content.length));
      draft.file(path, content, given);
      files.set(draft.entries.at(-1) as LayerEntry, content);
      shown.set(draft.entries.at(-1) as LayerEntry, contentHash(content));
    } else if (operation.kind === 'symlink') {
      draft.symlink(path, operation.target, { ...given, mode: 0o777 });
      shown.set(draft.entries.at(-1) as LayerEntry, operation.target);
    } else if (operation.kind === 'character' || operation.kind === 'block') {
      const [major, minor] = [operation.pick % 4096, operation.pick % 1_048_576];
      draft.add({ kind: operation.kind, path, attributes: given, major, minor });
      shown.set(draft.entries.at(-1) as LayerEntry, `${major}:${minor}`);
    } else if (operation.kind === 'hardlink') {
      draft.hardlink(path, leaves[operation.pick % leaves.length] ?? operation.names.join('/'), given);
    } else {
      draft.add({ kind: operation.kind, path, attributes: given });
    }
    if (operation.kind !== 'whiteout' && operation.kind !== 'opaque') {
      paths.push(path);
      if (operation.kind !== 'directory') leaves.push(path);
      if (operation.kind === 'directory' || operation.kind === 'symlink') parents.push(path);
    }
  }
  return {
    draft,
    contentOf: (entry) => files.get(entry) ?? Buffer.alloc(0),
    shownOf: (entry) => shown.get(entry) ?? '',
  };
}

function pathOf(
  { kind, names, place, pick }: Operation,
  tree: {
    readonly before: ByteString;
    readonly paths: readonly ByteString[];
    readonly parents: readonly ByteString[];
  },
): ByteString {
  const fresh = names.join('/');
  const path = {
    top: names[0] ?? fresh,
    existing: tree.paths[pick % tree.paths.length] ?? fresh,
    below: `${tree.parents[pick % tree.parents.length]}/${fresh}`,
    same: tree.before,
    inside: `${tree.before}/${fresh}`,
    beside: `${tree.before.split('/').slice(0, -1).join('/')}/${names[0]}`,
  }[place].replace(/^\//, '');
  // Only a directory may be listed at the root itself.
  const isRoot = path === '' && kind !== 'directory' && kind !== 'opaque';
  return isRoot || path.length > MAX_PATH_BYTES ? fresh : path;
}

/** Xattrs as archives bring them: "user." is for files and directories only. */
function attributesOf({ kind, attributes, xattrs }: Operation): Attributes {
  const taken =
    kind === 'file' || kind === 'directory' ? xattrs : xattrs.filter(([name]) => !name.startsWith('user.'));
  return {
    ...attributes,
    xattrs: new Map(taken.map(([name, length]) => [name, Buffer.alloc(length, name)])),
  };
}
