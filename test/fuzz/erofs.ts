import { BufferSource } from '../../src/format/buffer-source.ts';
import type { ByteSource } from '../../src/format/byte-source.ts';
import { BLOCK_BYTES, type ErofsInode } from '../../src/format/erofs-layout.ts';
import { ErofsReader } from '../../src/format/erofs-reader.ts';
import { buildErofsLayer } from '../../src/format/erofs-writer.ts';
import { LayerDraft } from '../support/erofs-device.ts';
import { type ErofsInput, erofsInputs, mutateErofs } from './erofs-bytes.ts';
import type { Random } from './random.ts';
import { type FuzzTarget, isTyped, Violation } from './target.ts';

/** A file system may claim that one name follows the other without end; this is far more than any input holds. */
const MAX_NAMES = 100_000;
const MAX_READ_BYTES = 1 << 20;
const PATHS = [
  'd',
  'd/f',
  'dir',
  'dir/large',
  'dir/small',
  'dir/sub',
  'dir/sub/deep',
  'ln',
  'ln/x',
  'long',
  'long/x',
  'hard',
  'fifo',
  'many',
  'many/name-7-nnnnnnn',
  'many/x',
  'new',
  'new/er/x',
  'l2',
  '',
];

/** Superblock, inodes, directories, xattrs, links and data of an EROFS device. */
export async function erofsTarget(): Promise<FuzzTarget> {
  return target(await erofsInputs(), async (input) => {
    const reader = await ErofsReader.open(new BufferSource(input));
    await walk(reader);
    for (const path of PATHS) await orRefused(reader.lookup(path));
  });
}

/** A damaged device as what a layer is put on: what is built can be read again, or is refused. */
export async function erofsParentTarget(): Promise<FuzzTarget> {
  return target(await erofsInputs(), async (input, random) => {
    const parent = new BufferSource(input);
    const { entries } = randomLayer(random);
    const blocks = new Map<number, Buffer>();
    const emit = (first: number, bytes: Buffer): void => {
      for (let at = 0, block = first; at < bytes.length; at += BLOCK_BYTES, block++) {
        if (blocks.has(block)) throw new Violation(`block ${block} is emitted twice`);
        blocks.set(block, Buffer.from(bytes.subarray(at, at + BLOCK_BYTES)));
      }
    };
    const readTail = (_offset: number, tail: Buffer): void => void tail.fill('t');
    const uuid = Buffer.alloc(16);
    const built = await buildErofsLayer({ parent, entries, dataBlocks: 0, readTail, uuid }, emit).catch(
      (error: unknown) => {
        // The layer may not fit on the undamaged device either.
        if (isTyped(error) && error.code === 'ERR_LAYER_CONFLICT') return null;
        throw error;
      },
    );
    if (built === null) return;
    const device = new Overlay(parent, blocks, built.totalBlocks * BLOCK_BYTES);
    await orRefused(ErofsReader.open(device).then(walk));
  });
}

function target(
  inputs: readonly ErofsInput[],
  run: (input: Buffer, random: Random) => Promise<void>,
): FuzzTarget {
  return {
    corpus: inputs.map(({ bytes }) => bytes),
    mutate(input, random) {
      const known = inputs.find(({ bytes }) => bytes === input);
      if (known === undefined) throw new Error('an input that is not of the corpus');
      return mutateErofs(known, random);
    },
    run,
  };
}

async function walk(reader: ErofsReader): Promise<void> {
  let names = 0;
  for await (const { inode } of reader.walk()) {
    if (++names > MAX_NAMES) throw new Violation(`more than ${MAX_NAMES} names`);
    await orRefused(look(reader, inode));
  }
}

async function look(reader: ErofsReader, inode: ErofsInode): Promise<void> {
  await reader.xattrs(inode);
  if (inode.type === 'symlink') await reader.readLink(inode);
  if (inode.type !== 'file') return;
  const length = Math.min(inode.size, MAX_READ_BYTES);
  await reader.readFile(inode, 0, Buffer.alloc(length));
  await reader.readFile(inode, inode.size - length, Buffer.alloc(length));
}

/** One thing that cannot be read does not keep the rest from being read. */
async function orRefused(reading: Promise<unknown>): Promise<void> {
  await reading.catch((error: unknown) => {
    if (!isTyped(error)) throw error;
  });
}

function randomLayer(random: Random): LayerDraft {
  const draft = new LayerDraft();
  const xattrs = new Map(random.oneIn(4) ? [['user.x', Buffer.alloc(random.below(3000))]] : []);
  for (let entries = 1 + random.below(6); entries > 0; entries--) {
    const path = random.pick(PATHS);
    switch (random.below(7)) {
      case 0:
        draft.whiteout(path);
        break;
      case 1:
        draft.opaque(path);
        break;
      case 2:
        draft.hardlink(path, random.pick(PATHS));
        break;
      case 3:
        draft.symlink(path, random.pick(PATHS) || '/');
        break;
      case 4:
        draft.file(path, Buffer.alloc(random.below(500)), { xattrs });
        break;
      default:
        draft.directory(path, { xattrs });
        break;
    }
  }
  return draft;
}

/** A device with some blocks put over it. */
class Overlay implements ByteSource {
  readonly size: number;
  readonly #below: ByteSource;
  readonly #blocks: ReadonlyMap<number, Buffer>;

  constructor(below: ByteSource, blocks: ReadonlyMap<number, Buffer>, size: number) {
    this.#below = below;
    this.#blocks = blocks;
    this.size = size;
  }

  async read(offset: number, target: Buffer): Promise<void> {
    target.fill(0);
    const covered = Math.max(0, Math.min(target.length, this.#below.size - offset));
    await this.#below.read(Math.min(offset, this.#below.size), target.subarray(0, covered));
    for (const [number, block] of this.#blocks) {
      const at = number * BLOCK_BYTES - offset;
      if (at > -BLOCK_BYTES && at < target.length) block.copy(target, Math.max(0, at), Math.max(0, -at));
    }
  }

  async close(): Promise<void> {}
}
