import { expect, test } from 'vitest';
import type { TarEntry, TarHandler } from '../format/tar-reader.ts';
import { type ConversionLimits, DEFAULT_LIMITS, ImageLimits, LayerLimits } from './layer-limits.ts';

function entry(path: string, more: Partial<TarEntry> = {}): TarEntry {
  return {
    path,
    type: 'file',
    size: 0,
    mode: 0o644,
    uid: 0,
    gid: 0,
    mtimeSeconds: 0,
    mtimeNanoseconds: 0,
    linkTarget: '',
    deviceMajor: 0,
    deviceMinor: 0,
    xattrs: new Map(),
    ...more,
  };
}

/** What of `entries` reaches the handler, and the error that ends it. */
function take(limits: Partial<ConversionLimits>, entries: Iterable<TarEntry>) {
  const taken: string[] = [];
  const handler: TarHandler = {
    entry: ({ path }) => taken.push(path),
    data: () => {},
    hole: () => {},
    end: () => {},
  };
  const guarded = new LayerLimits({ ...DEFAULT_LIMITS, ...limits }).guard(handler);
  try {
    for (const each of entries) guarded.entry(each);
  } catch (error) {
    return { taken, error };
  }
  return { taken, error: null };
}

const limitError = (message: RegExp) =>
  expect.objectContaining({ code: 'ERR_LIMIT', message: expect.stringMatching(message) });

test('an entry beyond the number of entries is refused before it is taken', () => {
  const { taken, error } = take(
    { layerEntries: 2 },
    ['a', 'b', 'c'].map((path) => entry(path)),
  );
  expect(taken).toEqual(['a', 'b']);
  expect(error).toEqual(
    limitError(/^the layer has at least 3 entries, 2 are allowed; .* raise the limit layerEntries$/),
  );
});

test('directories that have no entry are counted, once, and those that have one are not counted twice', () => {
  const directory = (path: string) => entry(path, { type: 'directory' });
  const deep = [entry('a/b/c/1'), entry('a/b/c/2'), entry('x/1'), entry('./a/b/3'), entry('/a/b/c/4')];
  expect(take({ layerEntries: 9 }, deep).error).toBeNull();
  expect(take({ layerEntries: 8 }, deep).error).toEqual(limitError(/layerEntries/));
  const listed = [directory('./'), directory('a/'), directory('a/b/'), entry('a/b/1'), entry('a/2')];
  expect(take({ layerEntries: 5 }, listed).error).toBeNull();
});

test('a file that is too large is refused before its data, with its holes', () => {
  const { taken, error } = take({ fileBytes: 100 }, [
    entry('ok', { size: 100 }),
    entry('big', { size: 101 }),
  ]);
  expect(taken).toEqual(['ok']);
  expect(error).toEqual(limitError(/^big has 101 bytes, holes included.*100 are allowed.*fileBytes$/));
});

test('files that are too large together are refused, with their holes', () => {
  const files = [entry('a', { size: 60 }), entry('b', { size: 41 })];
  expect(take({ layerBytes: 100 }, files)).toEqual({
    taken: ['a'],
    error: limitError(/101 bytes.*layerBytes/),
  });
});

test('a path with too many names is refused, however it is written', () => {
  expect(take({ pathDepth: 3 }, [entry('./a//b/./c/')]).error).toBeNull();
  expect(take({ pathDepth: 3 }, [entry('a/b/c/d')]).error).toEqual(
    limitError(/^the path a\/b\/c\/d has 4 names.*pathDepth/),
  );
});

test('a long path is shown in part', () => {
  const { error } = take({ pathDepth: 3 }, [entry('abc/'.repeat(1000))]);
  expect((error as Error).message.length).toBeLessThan(300);
});

test('xattrs of an entry are counted with their names', () => {
  const xattrs = new Map([['user.x', Buffer.alloc(94)]]);
  expect(take({ entryXattrBytes: 100 }, [entry('a', { xattrs })]).error).toBeNull();
  expect(take({ entryXattrBytes: 99 }, [entry('a', { xattrs })]).error).toEqual(
    limitError(/^a has 100 bytes of xattrs.*entryXattrBytes/),
  );
});

test('names, link targets, xattrs and holes of all entries together are bounded', () => {
  const name = 'n'.repeat(200);
  const short = Array.from({ length: 10 }, (_, i) => [`${i}`, Buffer.alloc(0)] as const);
  const held: [Partial<TarEntry>, number][] = [
    [{ linkTarget: name, type: 'symlink' }, 8],
    [{ xattrs: new Map([['user.x', Buffer.alloc(194)]]) }, 5],
    // Short ones take far more memory than their bytes.
    [{ xattrs: new Map(short) }, 1],
  ];
  for (const [more, count] of held) {
    const { taken, error } = take(
      { layerMetadataBytes: 8000 },
      [...Array(20)].map(() => entry(name, more)),
    );
    expect(taken).toHaveLength(count);
    expect(error).toEqual(limitError(/bytes of memory, 8000 are allowed.*layerMetadataBytes/));
  }
  const holes: number[] = [];
  const handler: TarHandler = { entry: () => {}, data: () => {}, hole: (n) => holes.push(n), end: () => {} };
  const guarded = new LayerLimits({ ...DEFAULT_LIMITS, layerMetadataBytes: 1000 }).guard(handler);
  guarded.entry(entry('sparse', { size: 1e6 }));
  expect(() => {
    for (let i = 0; i < 100; i++) guarded.hole(10);
  }).toThrow(limitError(/layerMetadataBytes/));
  expect(holes.length).toBeLessThan(20);
});

test('data and ends go on to the handler as they are', () => {
  const seen: unknown[] = [];
  const guarded = new LayerLimits(DEFAULT_LIMITS).guard({
    entry: (it) => seen.push(it),
    data: (it) => seen.push(it),
    hole: (it) => seen.push(it),
    end: (it) => seen.push(it),
  });
  const [file, bytes] = [entry('a'), Buffer.from('x')];
  guarded.entry(file);
  guarded.data(bytes);
  guarded.hole(5);
  guarded.end(file);
  expect(seen).toEqual([file, bytes, 5, file]);
});

test('a layer may unpack to so many bytes, and to so many for each compressed one', () => {
  const limits = new LayerLimits({
    ...DEFAULT_LIMITS,
    layerBytes: 1000,
    expansionRatio: 10,
    expansionFreeBytes: 500,
  });
  limits.unpacked(500, 1);
  limits.unpacked(501, 51);
  limits.unpacked(1000, 100);
  expect(() => limits.unpacked(501, 50)).toThrow(
    limitError(/^the layer unpacks from 50 bytes to at least 501, more than 10 times.*expansionRatio$/),
  );
  expect(() => limits.unpacked(1001, 1001)).toThrow(limitError(/1001 bytes.*1000 are allowed.*layerBytes$/));
});

test('the layers of an image are bounded together', () => {
  const bounds = { ...DEFAULT_LIMITS, imageLayers: 3, imageBytes: 1000, expansionFreeBytes: 500 };
  expect(() => new ImageLimits(bounds, 4)).toThrow(limitError(/^the image has 4 layers.*imageLayers$/));
  const image = new ImageLimits(bounds, 3);
  image.layer(600, 100);
  expect(() => image.layer(401, 100)).toThrow(limitError(/1001 bytes.*imageBytes$/));
  const dense = new ImageLimits(bounds, 3);
  dense.layer(400, 1);
  expect(() => dense.layer(400, 1)).toThrow(
    limitError(/^the image unpacks from 2 bytes to at least 800.*expansionRatio$/),
  );
});

test('by default the largest real layers pass, and a bomb of 10 MB unpacks to 4 GB at most', () => {
  const layer = new LayerLimits(DEFAULT_LIMITS);
  layer.unpacked(30e9, 10e9);
  layer.unpacked(2e9, 2e6);
  expect(() => layer.unpacked(4e9 + 1, 10e6)).toThrow(limitError(/expansionRatio/));
  const files = function* () {
    for (let i = 0; i < 200_000; i++)
      yield entry(`usr/lib/python3/site-packages/package-${i % 2000}/file-${i}`);
  };
  expect(take({ layerEntries: 202_100, layerMetadataBytes: 140_000_000 }, files()).error).toBeNull();
});
