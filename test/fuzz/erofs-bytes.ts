/** EROFS devices, and changes to them that get past the superblock's checksum. */
import { BufferSource } from '../../src/format/buffer-source.ts';
import { crc32c } from '../../src/format/crc32c.ts';
import { ErofsReader } from '../../src/format/erofs-reader.ts';
import { type BlockDevice, LayerDraft } from '../support/erofs-device.ts';
import { mutate, oddNumber, type Range } from './mutate.ts';
import type { Random } from './random.ts';

const BLOCK = 4096;
const SUPERBLOCK = 1024;
const SUPERBLOCK_FIELDS = [
  [0, 4],
  [8, 4],
  [12, 1],
  [14, 2],
  [16, 8],
  [24, 8],
  [36, 4],
  [40, 4],
  [44, 4],
  [80, 4],
] as const;
const INODE_FIELDS = [
  [0, 2],
  [2, 2],
  [4, 2],
  [8, 8],
  [16, 4],
  [20, 4],
  [32, 8],
  [40, 4],
  [44, 4],
] as const;
const MODES = [0o100644, 0o040755, 0o120777, 0o020600, 0o060600, 0o010600, 0o140600, 0o170000, 0];

/** A device, and where in it the numbers stand. */
export interface ErofsInput {
  readonly bytes: Buffer;
  readonly inodes: readonly number[];
  /** Inodes, xattrs and directories. */
  readonly hot: readonly Range[];
}

/** File systems of one and of two layers, with inodes of all types. */
export async function erofsInputs(): Promise<ErofsInput[]> {
  const small = await new LayerDraft().directory('d').file('d/f', 'x').on(null);
  const xattrs = new Map([
    ['user.a', Buffer.alloc(40, 1)],
    ['trusted.b', Buffer.alloc(5000, 2)],
  ]);
  const first = new LayerDraft()
    .directory('dir', { xattrs })
    .file('dir/large', Buffer.alloc(9000, 'l'))
    .file('dir/small', 'small', { xattrs, mtimeSeconds: -5 })
    .symlink('ln', 'dir/sub')
    .symlink('long', 't/'.repeat(1500))
    .hardlink('hard', 'dir/large')
    .add({
      kind: 'fifo',
      path: 'fifo',
      attributes: { mode: 0o600, uid: 1, gid: 2, mtimeSeconds: 0, mtimeNanoseconds: 0, xattrs: new Map() },
    })
    .directory('dir/sub/deep');
  for (let i = 0; i < 400; i++) first.file(`many/name-${i}-${'n'.repeat(i % 50)}`, '');
  const lower = await first.on(null);
  const upper = await new LayerDraft()
    .whiteout('hard')
    .file('dir/sub/new', 'n')
    .opaque('many')
    .hardlink('l2', 'dir/small')
    .on(lower.device);
  return Promise.all([small.device, lower.device, upper.device].map(inputOf));
}

async function inputOf(device: BlockDevice): Promise<ErofsInput> {
  const bytes = Buffer.alloc(device.size);
  await device.read(0, bytes);
  const reader = await ErofsReader.open(new BufferSource(bytes));
  const inodes: number[] = [];
  const hot: Range[] = [[SUPERBLOCK, SUPERBLOCK + 128]];
  for await (const { inode } of reader.walk()) {
    const at = reader.inodeOffset(inode.nid);
    if (inodes.length > 40) break;
    inodes.push(at);
    const tail = inode.layout === 'inline' ? inode.size % BLOCK : 0;
    hot.push([
      at,
      at + inode.inodeBytes + Math.min(inode.xattrBytes, 64) + (inode.type === 'file' ? 0 : tail),
    ]);
    if (inode.type === 'directory' && inode.size > tail)
      hot.push([inode.startBlock * BLOCK, inode.startBlock * BLOCK + 600]);
  }
  return { bytes, inodes, hot };
}

/** Changes fields of superblock and inodes, directories, xattrs or anything. */
export function mutateErofs({ bytes, inodes, hot }: ErofsInput, random: Random): Buffer {
  let changed: Buffer = Buffer.from(bytes);
  if (random.oneIn(2)) {
    changed = mutate(changed, random, { hot, keepLength: !random.oneIn(6) });
  } else {
    for (let changes = 1 + random.below(3); changes > 0; changes--) changeField(changed, random, inodes);
  }
  if (!random.oneIn(8)) restoreErofsChecksum(changed);
  return changed;
}

function changeField(device: Buffer, random: Random, inodes: readonly number[]): void {
  if (random.oneIn(5)) {
    const [at, width] = random.pick(SUPERBLOCK_FIELDS);
    write(device, SUPERBLOCK + at, width, oddNumber(random, width * 8));
    return;
  }
  const inode = random.oneIn(3) ? inodes[0]! : random.pick(inodes);
  const [at, width] = random.pick(INODE_FIELDS);
  // Small numbers, those of another inode, and special ones.
  const number = random.pick([
    BigInt(random.below(20)),
    read(device, random.pick(inodes) + at, width),
    at === 4 ? BigInt(random.pick(MODES)) : oddNumber(random, width * 8),
  ]);
  write(device, inode + at, width, number);
}

function read(bytes: Buffer, at: number, width: number): bigint {
  let value = 0n;
  for (let i = width - 1; i >= 0; i--) value = (value << 8n) | BigInt(bytes[at + i]!);
  return value;
}

function write(bytes: Buffer, at: number, width: number, value: bigint): void {
  for (let i = 0; i < width; i++) bytes[at + i] = Number((value >> BigInt(8 * i)) & 0xffn);
}

/** CRC-32C of the first block from the superblock on, with the field itself as zero. */
export function restoreErofsChecksum(device: Buffer): void {
  if (device.length < BLOCK) return;
  device.writeUInt32LE(0, SUPERBLOCK + 4);
  device.writeUInt32LE(crc32c(device.subarray(SUPERBLOCK, BLOCK), 0xffff_ffff), SUPERBLOCK + 4);
}
