import fc from 'fast-check';
import { beforeAll, describe, expect, it } from 'vitest';
import { BlockDevice, LayerDraft } from '../../test/support/erofs-device.ts';
import { nidOf } from '../../test/support/tree-snapshot.ts';
import { BufferSource } from './buffer-source.ts';
import { SourceError } from './byte-source.ts';
import { ErofsReader } from './erofs-reader.ts';
import { buildErofsLayer } from './erofs-writer.ts';
import { FormatError } from './errors.ts';

const BLOCK_BYTES = 4096;
const SUPERBLOCK = 1024;

/** A file system with a bit of everything. */
async function sample(): Promise<BlockDevice> {
  const xattrs = new Map([
    ['user.a', Buffer.from('value')],
    ['trusted.b', Buffer.alloc(5000, 'b')],
  ]);
  const lower = new LayerDraft()
    .file('file', Buffer.alloc(10_000, 'f'), { xattrs })
    .file('tail', Buffer.alloc(4200, 't'))
    .hardlink('second', 'file')
    .symlink('link', 'd/sub')
    .directory('d/sub', { xattrs });
  for (let index = 0; index < 300; index++) lower.file(`d/name-${index}`, `${index}`);
  const { device } = await lower.on(null);
  return (await new LayerDraft().whiteout('d/name-7').file('d/sub/new', 'n').on(device)).device;
}

/** Reads all that there is. */
async function readEverything(source: BufferSource): Promise<void> {
  const reader = await ErofsReader.open(source);
  for await (const { inode } of reader.walk()) {
    await reader.xattrs(inode);
    if (inode.type === 'symlink') await reader.readLink(inode);
    if (inode.type === 'file' && inode.size < 2 ** 20) await reader.readAll(inode);
  }
}

describe('a reader of EROFS', () => {
  let device: BlockDevice;
  let image: Buffer;
  beforeAll(async () => {
    device = await sample();
    image = Buffer.alloc(device.size);
    await device.read(0, image);
    // Without the checksum, damage in block 0 is not found at once.
    image.writeUInt32LE(0, SUPERBLOCK + 8);
  });

  it('reads any part of a file, over the border of blocks and tail', async () => {
    const reader = await ErofsReader.open(device);
    const file = await reader.lookup('/tail');
    if (file === null) throw new Error('not found');
    expect(file).toMatchObject({ layout: 'inline', size: 4200 });
    for (const [offset, length] of [
      [0, 4200],
      [4090, 20],
      [4096, 104],
      [4199, 1],
      [4200, 0],
    ] as const) {
      const target = Buffer.alloc(length);
      await reader.readFile(file, offset, target);
      expect(target).toEqual(Buffer.alloc(length, 't'));
    }
    await expect(reader.readFile(file, 4199, Buffer.alloc(2))).rejects.toMatchObject({
      code: 'ERR_SOURCE_RANGE',
    });
  });

  it('finds paths without following links', async () => {
    const reader = await ErofsReader.open(device);
    expect(await reader.lookup('d/sub/new')).toMatchObject({ type: 'file', size: 1 });
    expect(await reader.lookup('link')).toMatchObject({ type: 'symlink' });
    expect(await reader.lookup('link/new')).toBeNull();
    expect(await reader.lookup('d/name-7')).toBeNull();
    expect(await reader.lookup('')).toMatchObject({ nid: 36 });
  });

  it('fails in its own words, and ends, whatever is in the device', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.tuple(fc.nat(), fc.oneof(fc.constantFrom(0, 1, 0xff, 0x80), fc.nat(255))), {
          minLength: 1,
        }),
        async (changes) => {
          const damaged = Buffer.from(image);
          for (const [at, value] of changes)
            damaged[SUPERBLOCK + (at % (damaged.length - SUPERBLOCK))] = value;
          const outcomes = await Promise.allSettled([
            readEverything(new BufferSource(damaged)),
            changeSomething(damaged),
          ]);
          for (const outcome of outcomes) {
            if (outcome.status === 'fulfilled') continue;
            if (!(outcome.reason instanceof FormatError || outcome.reason instanceof SourceError))
              throw outcome.reason;
          }
        },
      ),
      { numRuns: 600, seed: 11 },
    );
  });

  it('ends on directories that hold themselves', async () => {
    const damaged = Buffer.from(image);
    const reader = await ErofsReader.open(new BufferSource(image));
    const directory = await reader.lookup('d/sub');
    const file = await reader.lookup('d/sub/new');
    if (directory === null || file === null) throw new Error('not found');
    // The entry of "new" comes to lead to its own directory.
    const entry = Buffer.alloc(12);
    entry.writeUInt32LE(file.nid, 0);
    const at = image.indexOf(entry.subarray(0, 8), 1152);
    damaged.writeUInt32LE(directory.nid, at);
    damaged[at + 10] = 2;
    await expect(readEverything(new BufferSource(damaged))).rejects.toMatchObject({
      code: 'ERR_EROFS_CORRUPT',
    });
  });

  it.each([
    ['more blocks than the device has', (bytes: Buffer) => bytes.writeUInt32LE(0xffff_ffff, SUPERBLOCK + 36)],
    ['a root elsewhere', (bytes: Buffer) => bytes.writeUInt16LE(0xffff, SUPERBLOCK + 14)],
    ['a root that is a file', (bytes: Buffer) => bytes.writeUInt16LE(0o100644, 1152 + 4)],
    ['a root of enormous size', (bytes: Buffer) => bytes.writeUInt32LE(0xff, 1152 + 12)],
    ['a tail that crosses a block boundary', (bytes: Buffer) => bytes.writeUInt32LE(4000, 1152 + 8)],
    ['xattrs that pass the end', (bytes: Buffer) => bytes.writeUInt16LE(0xffff, 1152 + 2)],
  ])('refuses %s', async (_, damage) => {
    const damaged = Buffer.from(image);
    damage(damaged);
    await expect(readEverything(new BufferSource(damaged))).rejects.toMatchObject({
      code: 'ERR_EROFS_CORRUPT',
    });
  });

  it.each([0, 0xffff_ffff])('refuses to build on an inode that says it has %i links', async (links) => {
    const damaged = Buffer.from(image);
    const tail = await (await ErofsReader.open(device)).lookup('tail');
    damaged.writeUInt32LE(links, (tail?.nid ?? 0) * 32 + 44);
    await expect(changeSomething(damaged)).rejects.toMatchObject({ code: 'ERR_EROFS_CORRUPT' });
  });

  it.each([0, 1, 0xffff_ffff])('refuses to build on a root that says it has %i links', async (links) => {
    const damaged = Buffer.from(image);
    damaged.writeUInt32LE(links, 1152 + 44);
    await expect(changeSomething(damaged)).rejects.toMatchObject({ code: 'ERR_EROFS_CORRUPT' });
  });

  it('refuses to build on inodes that lie in each other, which it would have to write back', async () => {
    const long = { xattrs: new Map([['trusted.long', Buffer.alloc(9000)]]) };
    const { device: below } = await new LayerDraft().file('long', 'l', long).file('short', 's').on(null);
    const [outer, inner] = await Promise.all(['long', 'short'].map((path) => nidOf(below, path)));
    const damaged = Buffer.alloc(below.size);
    await below.read(0, damaged);
    damaged.writeUInt32LE(0, SUPERBLOCK + 8);
    const inside = (outer ?? 0) + 4096 / 32;
    damaged.copy(damaged, inside * 32, (inner ?? 0) * 32, (inner ?? 0) * 32 + 96);
    const entry = Buffer.alloc(8);
    entry.writeUInt32LE(inner ?? 0);
    damaged.writeUInt32LE(inside, damaged.indexOf(entry, 1152));
    const layer = new LayerDraft().hardlink('a', 'long').hardlink('b', 'short');
    const input = { entries: layer.entries, dataBlocks: 0, readTail: () => {}, uuid: Buffer.alloc(16) };
    const built = buildErofsLayer({ parent: new BufferSource(damaged), ...input }, () => {});
    await expect(built).rejects.toMatchObject({ code: 'ERR_EROFS_CORRUPT' });
  });

  it('gives up on paths longer than any that the kernel takes', async () => {
    const { device: deep } = await new LayerDraft()
      .directory(Array(300).fill('n'.repeat(255)).join('/'))
      .on(null);
    const walk = async () => {
      for await (const { path } of (await ErofsReader.open(deep)).walk())
        expect(path.length).toBeLessThan(70_000);
    };
    await expect(walk()).rejects.toMatchObject({ code: 'ERR_LIMIT' });
  });

  it('refuses what is smaller than a block', async () => {
    const small = new BufferSource(Buffer.alloc(BLOCK_BYTES - 1));
    await expect(ErofsReader.open(small)).rejects.toMatchObject({ code: 'ERR_EROFS_CORRUPT' });
  });
});

/** Builds a layer that touches much on an image. */
async function changeSomething(image: Buffer): Promise<void> {
  const blocks = new Map<number, Buffer>();
  for (let at = 0; at < image.length; at += BLOCK_BYTES) {
    blocks.set(at / BLOCK_BYTES, image.subarray(at, at + BLOCK_BYTES));
  }
  await new LayerDraft()
    .whiteout('second')
    .opaque('d')
    .file('link/x', 'x')
    .directory('d', { xattrs: new Map([['user.x', Buffer.alloc(9000)]]) })
    .hardlink('more', 'tail')
    .on(new BlockDevice(blocks, image.length / BLOCK_BYTES));
}
