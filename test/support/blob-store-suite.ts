import { randomBytes } from 'node:crypto';
import { openSync, readdirSync, readFileSync, readSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { digestOf } from '../../src/oci/digest.ts';
import type { BlobStore, ListedBlob } from '../../src/store/blob-store.ts';
import { readAll } from './byte-sources.ts';

/** A store of its own for each test. */
export interface StoreUnderTest {
  readonly store: BlobStore;
  /** Changes a byte of what is stored, where it is stored. */
  damage(digest: string): Promise<void>;
  /** Another store on what this one keeps, which is closed. */
  reopen(): Promise<BlobStore>;
  /** Closes and removes everything. */
  remove(): Promise<void>;
}

const HELLO = Buffer.from('hello, blobs');
const DIGEST = digestOf(HELLO);
const OTHER = digestOf('something else');

/** What every blob store promises. */
export function testBlobStore(name: string, make: () => Promise<StoreUnderTest>): void {
  let made: StoreUnderTest;
  let store: BlobStore;

  beforeEach(async () => {
    made = await make();
    store = made.store;
  });
  afterEach(() => made.remove());

  const unfinished = () => readdirSync(store.scratch());

  async function written(digest = DIGEST) {
    const writer = await store.writer({ digest, sizeBytes: HELLO.length });
    await writer.write(HELLO.subarray(0, 5));
    await writer.write(HELLO.subarray(5));
    return writer;
  }

  async function listed(): Promise<ListedBlob[]> {
    const found: ListedBlob[] = [];
    for await (const blob of store.list()) found.push(blob);
    return found.sort((a, b) => (a.digest < b.digest ? -1 : 1));
  }

  async function bytesIn(digest: typeof DIGEST): Promise<Buffer> {
    const source = (await store.open(digest))!;
    try {
      return await readAll(source);
    } finally {
      await source.close();
    }
  }

  describe(name, () => {
    test('a blob can be seen only after commit, then with all its bytes', async () => {
      const writer = await written();
      expect(await store.stat(DIGEST)).toBeNull();
      expect(await store.open(DIGEST)).toBeNull();
      expect(await store.hold(DIGEST)).toBeNull();
      expect(await store.localFile(DIGEST)).toBeNull();
      expect(await listed()).toEqual([]);
      expect(readFileSync(writer.path)).toEqual(HELLO);

      expect(await writer.commit()).toEqual({ digest: DIGEST, sizeBytes: HELLO.length });
      expect(await store.stat(DIGEST)).toEqual({ sizeBytes: HELLO.length });
      const file = (await store.localFile(DIGEST))!;
      expect(readFileSync(file.path)).toEqual(HELLO);
      await file.close();
      expect(await bytesIn(DIGEST)).toEqual(HELLO);
      expect(unfinished()).toEqual([]);
    });

    test('the growing file of a blob can be read up to what was written, also after the blob is committed', async () => {
      const bytes = randomBytes(3_000_000);
      const writer = await store.writer({ digest: digestOf(bytes), sizeBytes: bytes.length });
      const fd = openSync(writer.path, 'r');
      for (let at = 0; at < bytes.length; at += 1_000_000) {
        await writer.write(bytes.subarray(at, at + 1_000_000));
        const seen = Buffer.alloc(writer.bytesWritten);
        expect(readSync(fd, seen, 0, seen.length, 0)).toBe(at + 1_000_000);
        expect(seen.equals(bytes.subarray(0, seen.length))).toBe(true);
      }
      await writer.commit();
      const seen = Buffer.alloc(bytes.length);
      expect(readSync(fd, seen, 0, seen.length, 0)).toBe(bytes.length);
      expect(seen.equals(bytes)).toBe(true);
    });

    test('bytes of another digest are refused and leave nothing', async () => {
      const writer = await written(OTHER);
      await expect(writer.commit()).rejects.toMatchObject({ code: 'ERR_STORE_DIGEST' });
      expect(await store.stat(OTHER)).toBeNull();
      expect(await store.stat(DIGEST)).toBeNull();
      expect(unfinished()).toEqual([]);
    });

    test('a blob that is too short or too long is refused and leaves nothing', async () => {
      const short = await store.writer({ digest: DIGEST, sizeBytes: HELLO.length + 1 });
      await short.write(HELLO);
      await expect(short.commit()).rejects.toMatchObject({ code: 'ERR_STORE_SIZE' });
      const long = await store.writer({ digest: DIGEST, sizeBytes: HELLO.length - 1 });
      await expect(long.write(HELLO)).rejects.toMatchObject({ code: 'ERR_STORE_SIZE' });
      await expect(long.write(HELLO)).rejects.toMatchObject({ code: 'ERR_STORE_CLOSED' });
      expect(unfinished()).toEqual([]);
      expect(await listed()).toEqual([]);
    });

    test('an aborted blob leaves nothing, and abort after commit does no harm', async () => {
      await (await written()).abort();
      expect(unfinished()).toEqual([]);
      const writer = await written();
      await writer.commit();
      await writer.abort();
      expect(await store.stat(DIGEST)).not.toBeNull();
    });

    test('a digest of the other registered algorithm is verified with it', async () => {
      const sha512 = digestOf(HELLO, 'sha512');
      await (await written(sha512)).commit();
      expect(await store.stat(sha512)).toEqual({ sizeBytes: HELLO.length });
      expect(await store.verify(sha512)).toBe('intact');
      expect(await listed()).toMatchObject([{ digest: sha512 }]);
    });

    test('put, writer without expectation and adopt all end in the same blob', async () => {
      expect(await store.put(HELLO)).toBe(DIGEST);
      expect(await store.put(HELLO)).toBe(DIGEST);
      expect(await store.remove(DIGEST)).toBe(true);
      expect(await store.stat(DIGEST)).toBeNull();
      const writer = await store.writer(null);
      await writer.write(HELLO);
      expect((await writer.commit()).digest).toBe(DIGEST);
      expect(await store.remove(DIGEST)).toBe(true);
      const path = join(store.scratch(), 'made-elsewhere');
      writeFileSync(path, HELLO);
      await store.adopt(path, DIGEST);
      expect(await bytesIn(DIGEST)).toEqual(HELLO);
      expect(unfinished()).toEqual([]);
    });

    test('a blob without bytes is one like others', async () => {
      const empty = await store.put(Buffer.alloc(0));
      expect(await store.stat(empty)).toEqual({ sizeBytes: 0 });
      expect(await bytesIn(empty)).toEqual(Buffer.alloc(0));
      expect(await store.verify(empty)).toBe('intact');
    });

    test('what is held is not removed, however it is held, and can be when the last one lets go', async () => {
      await store.put(HELLO);
      const held = [
        (await store.open(DIGEST))!,
        (await store.localFile(DIGEST))!,
        (await store.localFile(DIGEST))!,
        (await store.hold(DIGEST))!,
      ];
      for (const each of held) {
        expect(await store.remove(DIGEST)).toBe(false);
        await each.close();
        // A second time lets nobody else's go.
        await each.close();
      }
      expect(await store.remove(DIGEST)).toBe(true);
      expect(await store.remove(DIGEST)).toBe(false);
      expect(await store.stat(DIGEST)).toBeNull();
      expect(await store.localFile(DIGEST)).toBeNull();
    });

    test('what is there when it is held stays there, however it is removed at the same time', async () => {
      for (let round = 0; round < 20; round++) {
        await store.put(HELLO);
        const holding = store.localFile(DIGEST);
        const removing = store.remove(DIGEST);
        const [file, isRemoved] = await Promise.all([holding, removing]);
        expect(file === null).toBe(isRemoved);
        if (file !== null) expect(readFileSync(file.path)).toEqual(HELLO);
        await file?.close();
        const gone = store.remove(DIGEST);
        expect(await store.localFile(DIGEST)).toBeNull();
        await gone;
      }
    });

    test('an open blob is read at random, and outside it not at all', async () => {
      const bytes = randomBytes(700_000);
      const source = (await store.open(await store.put(bytes)))!;
      for (const [at, length] of [
        [0, 1],
        [262_143, 2],
        [699_999, 1],
        [0, 700_000],
        [500_000, 100_000],
        [700_000, 0],
      ] as const) {
        const piece = Buffer.alloc(length);
        await source.read(at, piece);
        expect(piece.equals(bytes.subarray(at, at + length))).toBe(true);
      }
      await expect(source.read(699_999, Buffer.alloc(2))).rejects.toMatchObject({ code: 'ERR_SOURCE_RANGE' });
      await source.close();
      await expect(source.read(0, Buffer.alloc(1))).rejects.toMatchObject({ code: 'ERR_SOURCE_IO' });
    });

    test('all blobs are listed, with their sizes and when they came', async () => {
      const before = Date.now() - 2000;
      const blobs = Array.from({ length: 20 }, (_, length) => Buffer.alloc(length, length));
      for (const blob of blobs) await store.put(blob);
      const found = await listed();
      expect(found.map(({ digest, sizeBytes }) => ({ digest, sizeBytes }))).toEqual(
        blobs
          .map((blob) => ({ digest: digestOf(blob), sizeBytes: blob.length }))
          .sort((a, b) => (a.digest < b.digest ? -1 : 1)),
      );
      for (const { modifiedAtMs } of found) {
        expect(modifiedAtMs).toBeGreaterThan(before);
        expect(modifiedAtMs).toBeLessThan(Date.now() + 2000);
      }
    });

    test('a blob that is damaged where it is stored is found and removed, even while it is held', async () => {
      const bytes = randomBytes(300_000);
      const digest = await store.put(bytes);
      await store.put(HELLO);
      expect(await store.verify(digest)).toBe('intact');
      await made.damage(digest);
      const file = (await store.localFile(digest))!;
      expect(await store.verify(digest)).toBe('damaged');
      expect(await store.verify(digest)).toBe('absent');
      expect(await store.stat(digest)).toBeNull();
      expect(await store.open(digest)).toBeNull();
      await file.close();
      expect(await store.verify(DIGEST)).toBe('intact');
      await store.put(bytes);
      expect((await bytesIn(digest)).equals(bytes)).toBe(true);
    });

    test('a check can be given up', async () => {
      const digest = await store.put(randomBytes(5_000_000));
      const enough = AbortSignal.abort(new Error('enough'));
      await expect(store.verify(digest, enough)).rejects.toThrow('enough');
      expect(await store.remove(digest)).toBe(true);
    });

    test('many that write the same blob at once all succeed, and it is there once', async () => {
      const bytes = randomBytes(1_500_000);
      const expected = { digest: digestOf(bytes), sizeBytes: bytes.length };
      await Promise.all(
        Array.from({ length: 8 }, async () => {
          const writer = await store.writer(expected);
          for (let at = 0; at < bytes.length; at += 100_000)
            await writer.write(bytes.subarray(at, at + 100_000));
          expect(await writer.commit()).toEqual(expected);
        }),
      );
      expect(await listed()).toMatchObject([expected]);
      expect((await bytesIn(expected.digest)).equals(bytes)).toBe(true);
      expect(unfinished()).toEqual([]);
    });

    test('what was stored is there when the store is opened again, what was not finished is gone', async () => {
      await store.put(HELLO);
      const writer = await store.writer({ digest: OTHER });
      await writer.write(HELLO);
      store = await made.reopen();
      expect(unfinished()).toEqual([]);
      expect(await listed()).toMatchObject([{ digest: DIGEST, sizeBytes: HELLO.length }]);
      expect(await bytesIn(DIGEST)).toEqual(HELLO);
      await writer.abort();
    });
  });
}
