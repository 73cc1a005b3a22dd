import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  type DirectoryEntry,
  type DirectoryListing,
  decodeDirectoryBlock,
  encodeDirectoryBlock,
  listDirectory,
  listDirectoryAlike,
  sortedNames,
} from './erofs-directory.ts';
import { FormatError } from './errors.ts';

const BLOCK_BYTES = 4096;
const name = fc
  .oneof(
    fc.uint8Array({ minLength: 1, maxLength: 40 }),
    fc.uint8Array({ minLength: 255, maxLength: 255 }),
    fc.constantFrom(Buffer.from('-'), Buffer.from('!'), Buffer.from('...')),
  )
  .map((bytes) => Buffer.from(bytes).toString('latin1').replace(/[\0/]/g, 'x'))
  .filter((text) => text !== '.' && text !== '..');
const entries: fc.Arbitrary<DirectoryEntry[]> = fc.uniqueArray(
  fc.record({
    name,
    nid: fc.nat(2 ** 45),
    type: fc.constantFrom('file', 'directory', 'symlink', 'character', 'block', 'fifo', 'socket'),
  }),
  { selector: (entry) => entry.name, maxLength: 200 },
);

function encode(all: readonly DirectoryEntry[]): Buffer {
  const listing = listDirectory(sortedNames(all.map((entry) => entry.name)));
  const byName = new Map(all.map((entry) => [entry.name, entry]));
  const data = Buffer.alloc(listing.blockStarts.length * BLOCK_BYTES);
  for (let block = 0; block < listing.blockStarts.length; block++) {
    const target = data.subarray(block * BLOCK_BYTES);
    encodeDirectoryBlock(listing, block, (key) => byName.get(key) ?? { nid: 36, type: 'directory' }, target);
  }
  return data.subarray(0, listing.size);
}

function decode(data: Buffer): DirectoryEntry[] {
  const found: DirectoryEntry[] = [];
  for (let at = 0; at < data.length; at += BLOCK_BYTES) {
    decodeDirectoryBlock(data.subarray(at, at + BLOCK_BYTES), found);
  }
  return found;
}

function sorted(all: readonly DirectoryEntry[]): DirectoryEntry[] {
  return all.toSorted((a, b) => Buffer.compare(Buffer.from(a.name, 'latin1'), Buffer.from(b.name, 'latin1')));
}

describe('an EROFS directory', () => {
  it('is read as it was written, in byte order', () => {
    fc.assert(
      fc.property(entries, (all) => {
        expect(decode(encode(all))).toEqual(sorted(all));
      }),
    );
  });

  it('sorts "." and ".." among the other names', () => {
    expect(sortedNames(['a', '-', '.a', '!'])).toEqual(['!', '-', '.', '..', '.a', 'a']);
  });

  it('fills a block to its last byte', () => {
    // "." and ".." take 27 bytes, 15 names of 255 bytes 4,005, and the last one 64.
    const all = Array.from({ length: 15 }, (_, index) => `${index}`.padStart(255, 'n'));
    const listed = (last: string) => listDirectory(sortedNames([...all, last]));
    expect(listed('z'.repeat(52))).toMatchObject({ size: BLOCK_BYTES, blockStarts: [0] });
    expect(listed('z'.repeat(53))).toMatchObject({ blockStarts: [0, 17] });
  });

  it('reads any junk without harm', () => {
    fc.assert(
      fc.property(entries, fc.array(fc.tuple(fc.nat(), fc.nat(255)), { minLength: 1 }), (all, changes) => {
        const data = Buffer.from(encode(all));
        for (const [at, value] of changes) data[at % data.length] = value;
        try {
          for (const entry of decode(data)) {
            expect(entry.name).toMatch(/^[^/\0]{1,255}$/s);
          }
        } catch (error) {
          expect(error).toBeInstanceOf(FormatError);
        }
      }),
      { numRuns: 500 },
    );
  });

  it('is corrupt with names that are out of order, or come twice', () => {
    const [first, second] = ['a', 'b'].map((name): DirectoryEntry => ({ name, nid: 40, type: 'file' }));
    const data = encode([first!, second!]);
    const swapped = Buffer.from(data.toString('latin1').replace(/ab$/, 'ba'), 'latin1');
    expect(() => decode(swapped)).toThrow(expect.objectContaining({ code: 'ERR_EROFS_CORRUPT' }));
    const found = decode(data);
    expect(() => decodeDirectoryBlock(data, found)).toThrow('order');
  });

  it.each([
    ['no entry', Buffer.alloc(BLOCK_BYTES)],
    ['less than an entry', Buffer.alloc(11, 1)],
  ])('is corrupt with %s in a block', (_, data) => {
    expect(() => decode(data)).toThrow(expect.objectContaining({ code: 'ERR_EROFS_CORRUPT' }));
  });
});

describe('a directory that changes', () => {
  const many = Array.from({ length: 3000 }, (_, index) => `name-${10_000 + 2 * index}`);
  const before = listDirectory(sortedNames(many));
  const firstNames = before.blockStarts.map((start) => before.names[start]!);
  const blocksOf = ({ names, blockStarts }: DirectoryListing) =>
    blockStarts.map((start, index) => names.slice(start, blockStarts[index + 1]).join());
  const alike = (names: readonly string[]) => {
    const listing = listDirectoryAlike(sortedNames(names), firstNames);
    return listing === null ? null : blocksOf(listing).filter((block) => !blocksOf(before).includes(block));
  };

  it('has other names in the block alone where one comes or goes', () => {
    expect(alike(many)).toEqual([]);
    expect(alike([...many, 'name-11001'])).toHaveLength(1);
    expect(alike([...many, '!'])).toHaveLength(1);
    expect(alike([...many, 'zz'])).toHaveLength(1);
    expect(alike(many.filter((name) => name !== 'name-11000'))).toHaveLength(1);
    expect(alike(many.filter((name) => name !== firstNames[5]))).toHaveLength(1);
  });

  it('leaves no block empty', () => {
    const [from, to] = [firstNames[5]!, firstNames[6]!];
    expect(alike(many.filter((name) => name < from || name >= to))).toEqual([to, expect.any(String)]);
    // Also not the first, where not even "." stands in it.
    const early = listDirectory(sortedNames(many.map((name) => `!${name}`)));
    const starts = early.blockStarts.map((start) => early.names[start]!);
    const listing = listDirectoryAlike(early.names.slice(early.blockStarts[1]), starts);
    expect(listing?.blockStarts.slice(0, 3)).toEqual([0, 1, expect.any(Number)]);
  });

  it('is cut anew when a block is too full, or the last one not needed', () => {
    const room = Array.from({ length: 20 }, (_, index) => `name-11001-${10 + index}`);
    expect(alike([...many, ...room])).toHaveLength(1);
    expect(alike([...many, ...room, ...room.map((name) => `${name}+`)])).toBeNull();
    expect(alike(many.filter((name) => name < firstNames.at(-1)!))).toBeNull();
  });

  it('has its size up to the last name', () => {
    expect(listDirectoryAlike(before.names, firstNames)).toEqual(before);
  });
});
