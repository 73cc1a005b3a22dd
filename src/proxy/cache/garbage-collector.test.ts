import { randomBytes } from 'node:crypto';
import { mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import Database from 'better-sqlite3';
import { pino } from 'pino';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { type Digest, digestOf } from '../../oci/digest.ts';
import { Catalog } from '../../store/catalog.ts';
import { DirectoryBlobStore } from '../../store/directory-blob-store.ts';
import { StoreError } from '../../store/errors.ts';
import { RecordedBlobStore } from '../../store/recorded-blob-store.ts';
import { UseRecorder } from '../../store/use-recorder.ts';
import { takeInventory } from './cache-inventory.ts';
import { type CacheLimits, GarbageCollector } from './garbage-collector.ts';
import { Scrubber } from './scrubber.ts';

const log = pino({ level: 'silent' });
const KIB = 1024;
const LEASE = 'garbage-collection';

let directory: string;
let inner: DirectoryBlobStore;
let store: RecordedBlobStore;
let catalog: Catalog;
let recorder: UseRecorder;
let stop: AbortController;

beforeEach(async () => {
  directory = mkdtempSync(join(tmpdir(), 'dadi-gc-'));
  inner = await DirectoryBlobStore.open(directory);
  catalog = await Catalog.openSqlite(join(directory, 'catalog.db'));
  recorder = new UseRecorder(catalog.blobs, (error) => {
    throw error;
  });
  store = new RecordedBlobStore(inner, recorder, () => {});
  stop = new AbortController();
});

afterEach(async () => {
  await recorder.close();
  await catalog.close();
  await inner.close();
  rmSync(directory, { recursive: true });
});

function collector(limits: Partial<CacheLimits>, freeBytes: number | null = null): GarbageCollector {
  return new GarbageCollector({
    ...{ store: inner, catalog, recorder, log, signal: stop.signal, onRun: () => {} },
    limits: () => ({ maxBytes: null, maxAgeMs: null, minFreeBytes: 0, spareMs: 0, ...limits }),
    freeBytes: async () => freeBytes,
  });
}

function upkeep() {
  const forget = (digest: Digest) => collector({}).forget(digest);
  return { store: inner, catalog, log, signal: stop.signal, forget };
}

/** Blobs of a size, the first one used the longest ago. */
async function blobs(count: number, sizeBytes = 100 * KIB): Promise<Digest[]> {
  const digests: Digest[] = [];
  for (let at = 0; at < count; at++) digests.push(await store.put(randomBytes(sizeBytes)));
  await recorder.flush();
  const nowMs = Date.now();
  for (const [at, digest] of digests.entries()) {
    await catalog.blobs.remove([digest]);
    await catalog.blobs.add([{ digest, sizeBytes, modifiedAtMs: nowMs - 1_000_000 + at * 1_000 }]);
  }
  return digests;
}

/** What another replica writes about leases; returns how many rows it changed. */
function withLease(statement: string, ...values: unknown[]): number {
  const database = new Database(join(directory, 'catalog.db'));
  try {
    return database.prepare(statement).run(...values).changes;
  } finally {
    database.close();
  }
}

async function kept(digests: readonly Digest[]): Promise<boolean[]> {
  return Promise.all(digests.map(async (digest) => (await inner.stat(digest)) !== null));
}

test('what was used the longest ago goes first, until there is some room below the limit', async () => {
  const all = await blobs(10);
  const source = await store.open(all[0]!);
  await source?.close();
  const report = await collector({ maxBytes: 950 * KIB }).collect();
  // To 855 KiB.
  expect(report).toMatchObject({ outcome: 'done', removedBlobs: 2, freedBytes: 200 * KIB, heldBlobs: 0 });
  expect(report.bytesAfter).toBe(800 * KIB);
  expect(await kept(all)).toEqual([true, false, false, ...Array(7).fill(true)]);
  expect(await catalog.blobs.totals()).toEqual({ count: 8, sizeBytes: 800 * KIB });
  expect((await collector({ maxBytes: 950 * KIB }).collect()).removedBlobs).toBe(0);
});

test('a dry run tells the same and removes nothing', async () => {
  const all = await blobs(10);
  const dry = await collector({ maxBytes: 950 * KIB }).collect({ dryRun: true });
  expect(await kept(all)).toEqual(Array(10).fill(true));
  const wet = await collector({ maxBytes: 950 * KIB }).collect();
  expect(dry).toEqual({ ...wet, outcome: 'dry-run' });
});

test('a dry run tells all while another replica collects, and keeps none from it', async () => {
  const all = await blobs(300, 16);
  const dry = { dryRun: true };
  withLease('INSERT INTO leases VALUES (?, ?, ?)', LEASE, 'another replica', Date.now() + 60_000);
  expect((await collector({ maxBytes: 1 }).collect(dry)).removedBlobs).toBe(all.length);
  withLease('DELETE FROM leases WHERE name = ?', LEASE);
  expect((await collector({ maxBytes: 1 }).collect(dry)).removedBlobs).toBe(all.length);
  expect(withLease('DELETE FROM leases WHERE name = ?', LEASE)).toBe(0);
});

test('what is old goes although there is room', async () => {
  const all = await blobs(3);
  await store.stat(all[1]!);
  await collector({ maxAgeMs: 100_000 }).collect();
  expect(await kept(all)).toEqual([false, true, false]);
});

test('what is held stays: by a reader, a conversion, or by name', async () => {
  const all = await blobs(4);
  const holders = [await store.open(all[0]!), await store.localFile(all[1]!), await store.hold(all[2]!)];
  // As if they had been opened long ago.
  await recorder.flush();
  const report = await collector({ maxBytes: 1 }).collect();
  expect(report).toMatchObject({ removedBlobs: 1, heldBlobs: 3 });
  expect(await kept(all)).toEqual([true, true, true, false]);
  for (const holder of holders) await holder?.close();
  expect((await collector({ maxBytes: 1 }).collect()).removedBlobs).toBe(3);
});

test('what is being read is in use as long as that goes on, also for replicas that cannot see who holds it', async () => {
  const [digest] = (await blobs(1)) as [Digest];
  const source = (await store.open(digest))!;
  await recorder.flush();
  await catalog.blobs.remove([digest]);
  await catalog.blobs.add([{ digest, sizeBytes: 100 * KIB, modifiedAtMs: Date.now() - 1_000_000 }]);
  await source.read(0, Buffer.alloc(KIB));
  await recorder.flush();
  expect((await catalog.blobs.get(digest))?.usedAtMs).toBeGreaterThan(Date.now() - 500_000);
  await source.close();
});

test('a blob that cannot be removed does not keep the others, a store that cannot remove any ends the run', async () => {
  const all = await blobs(30);
  const remove = vi.spyOn(inner, 'remove');
  remove.mockRejectedValueOnce(new StoreError('ERR_STORE_IO', 'cannot remove it: EIO'));
  await collector({ maxBytes: 2900 * KIB }).collect();
  expect(await kept(all)).toEqual([true, ...Array(4).fill(false), ...Array(25).fill(true)]);
  remove.mockReset();
  remove.mockRejectedValue(new StoreError('ERR_STORE_IO', 'bucket out of reach'));
  await expect(collector({ maxBytes: 1 }).collect()).rejects.toMatchObject({ code: 'ERR_STORE_IO' });
  expect(remove.mock.calls.length).toBeLessThan(20);
  remove.mockRestore();
});

test('what was used a moment ago is spared, also if only its manifest was', async () => {
  const all = await blobs(3);
  await catalog.putManifest(all[0]!, 'application/x', 1, [all[1]!]);
  await store.stat(all[0]!);
  await collector({ maxBytes: 1, spareMs: 60_000 }).collect();
  expect(await kept(all)).toEqual([true, true, false]);
});

test('for a blob that would not fit into an empty cache nothing is removed', async () => {
  const all = await blobs(10);
  for (const limits of [{ minFreeBytes: 100 * KIB }, { minFreeBytes: 100 * KIB, maxBytes: 990 * KIB }]) {
    const report = await collector(limits, 100 * KIB).collect({ wantedBytes: 1200 * KIB });
    expect(report).toMatchObject({ outcome: 'done', removedBlobs: limits.maxBytes === undefined ? 0 : 2 });
  }
  expect(await kept(all)).toEqual([false, false, ...Array(8).fill(true)]);
});

test('a disk with too little free is relieved, of no more than it lacks', async () => {
  const all = await blobs(10);
  await collector({ minFreeBytes: 1000 * KIB }, 750 * KIB).collect();
  expect(await kept(all)).toEqual([...Array(3).fill(false), ...Array(7).fill(true)]);
  await collector({ minFreeBytes: 1000 * KIB }, 1000 * KIB).collect({ wantedBytes: 150 * KIB });
  expect(await kept(all)).toEqual([...Array(5).fill(false), ...Array(5).fill(true)]);
});

test('another replica that collects is left to it', async () => {
  await blobs(2);
  withLease('INSERT INTO leases VALUES (?, ?, ?)', LEASE, 'another replica', Date.now() + 60_000);
  expect(await collector({ maxBytes: 1 }).collect()).toMatchObject({ outcome: 'busy', removedBlobs: 0 });
});

test('the catalog is made to agree with the store', async () => {
  const all = await blobs(3);
  await catalog.putManifest(all[0]!, 'application/x', 1, []);
  await inner.remove(all[0]!);
  const found = await inner.put(randomBytes(77));
  await takeInventory(upkeep());
  expect(await catalog.blobs.get(all[0]!)).toBeNull();
  expect(await catalog.manifestMediaType(all[0]!)).toBeNull();
  expect(await catalog.blobs.get(found)).toMatchObject({ sizeBytes: 77 });
  expect((await catalog.blobs.totals()).count).toBe(3);
});

test('with a converted layer that is lost goes the image that was made of it, unless it is held', async () => {
  for (const isHeld of [false, true]) {
    const [original, layer, made] = (await blobs(3)) as [Digest, Digest, Digest];
    const common = { profile: 'p', upstream: 'reg.example', repository: 'a', platform: null };
    await catalog.conversions.enqueue(
      { digest: original, kind: 'image', ...common, priority: 0, notBeforeMs: 0, policy: '' },
      1,
    );
    await catalog.putManifest(made, 'application/x', 1, [layer]);
    const converted = { digest: made, mediaType: 'application/x', sizeBytes: 1, layerBytes: 1 };
    await catalog.conversions.setDone(original, 'p', converted, 1);
    const held = isHeld ? await inner.hold(made) : null;
    await inner.remove(layer);
    await takeInventory(upkeep());
    expect(await catalog.conversions.get(original, 'p')).toBeNull();
    expect(await kept([original, layer, made])).toEqual([true, false, isHeld]);
    expect((await catalog.blobs.get(made)) !== null).toBe(isHeld);
    await held?.close();
  }
});

test('a blob that the disk has damaged is found and removed, an intact one is not read again', async () => {
  const [good, bad] = (await blobs(2)) as [Digest, Digest];
  const file = await inner.localFile(bad);
  writeFileSync(file!.path, randomBytes(100 * KIB));
  await file?.close();
  const scrubber = new Scrubber(upkeep());
  expect(await scrubber.check(good)).toBe('intact');
  expect(await scrubber.check(bad)).toBe('damaged');
  expect(await kept([good, bad])).toEqual([true, false]);
  expect(await catalog.blobs.get(bad)).toBeNull();
  expect(await catalog.blobs.nextToVerify(Date.now() - 1000)).toBeNull();
});

test('however many reads of a blob fail at once, it is checked once', async () => {
  const [digest] = (await blobs(1)) as [Digest];
  const verify = vi.spyOn(inner, 'verify');
  const scrubber = new Scrubber(upkeep());
  for (let reader = 0; reader < 20; reader++) scrubber.suspect(digest);
  await scrubber.idle();
  expect(verify).toHaveBeenCalledTimes(1);
  scrubber.suspect(digest);
  await scrubber.idle();
  expect(verify).toHaveBeenCalledTimes(2);
});

test('a blob whose size a read finds wrong is checked at once', async () => {
  const suspects: Digest[] = [];
  const watched = new RecordedBlobStore(inner, recorder, (digest) => suspects.push(digest));
  const digest = await watched.put(randomBytes(KIB));
  const source = await watched.open(digest);
  const file = await inner.localFile(digest);
  truncateSync(file!.path, 10);
  await file?.close();
  await expect(source!.read(0, Buffer.alloc(KIB))).rejects.toThrow();
  await source?.close();
  expect(suspects).toEqual([digest]);
});

test('blobs that come, are read and are removed at the same time: a reader has all of a blob or none', async () => {
  const contents = Array.from({ length: 12 }, (_, at) => Buffer.alloc(64 * KIB, `content ${at} `));
  const gc = collector({ maxBytes: 300 * KIB });
  let isOver = false;
  let reads = 0;
  const collecting = (async () => {
    while (!isOver) {
      await gc.collect();
      // Promises alone would leave the readers no turn.
      await new Promise((resolve) => setImmediate(resolve));
    }
  })();
  const readers = Array.from({ length: 6 }, async (_, reader) => {
    for (let round = 0; round < 60; round++) {
      const bytes = contents[(round * 7 + reader * 5) % contents.length]!;
      const digest = await store.put(bytes);
      const source = await store.open(digest);
      if (source === null) continue;
      const read = Buffer.alloc(source.size);
      await new Promise((resolve) => setImmediate(resolve));
      await source.read(0, read);
      await source.close();
      expect(digestOf(read)).toBe(digest);
      reads++;
    }
  });
  await Promise.all(readers);
  isOver = true;
  await collecting;
  expect(reads).toBeGreaterThan(0);
  await gc.collect();
  await takeInventory(upkeep());
  expect((await catalog.blobs.totals()).sizeBytes).toBeLessThanOrEqual(300 * KIB);
  const listed: string[] = [];
  for await (const { digest } of inner.list()) listed.push(digest);
  expect((await catalog.blobs.list('', 1000)).map(({ digest }) => digest)).toEqual(listed.sort());
});
