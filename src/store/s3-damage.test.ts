import { randomBytes } from 'node:crypto';
import { readFileSync, truncateSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { readAll } from '../../test/support/byte-sources.ts';
import { another, fileOf, flip, keyOf, MIB, server, useS3Stores } from '../../test/support/s3-stores.ts';
import type { ByteSource } from '../format/byte-source.ts';

useS3Stores();

/** Reads piece by piece: each is right, or refused. */
async function refusedPieces(source: ByteSource, bytes: Buffer): Promise<number> {
  let refused = 0;
  for (let at = 0; at < source.size; at += 100_000) {
    const piece = Buffer.alloc(Math.min(100_000, source.size - at));
    try {
      await source.read(at, piece);
      expect(piece.equals(bytes.subarray(at, at + piece.length))).toBe(true);
    } catch (error) {
      expect(error).toMatchObject({ code: 'ERR_SOURCE_CORRUPT' });
      refused++;
    }
  }
  return refused;
}

test('a connection that breaks again and again is taken up where it broke', async () => {
  const bytes = randomBytes(5 * MIB);
  const digest = await (await another()).put(bytes);
  const store = await another();
  let breaks = 0;
  server.intercept = (what, request, response) => {
    if (!/^GET .*blobs\/sha256/.test(what) || ++breaks > 4) return false;
    const from = Number(/bytes=(\d+)-/.exec(request.headers.range ?? '')?.[1]);
    response.writeHead(206, {
      'content-length': bytes.length - from,
      'content-range': `bytes ${from}-${bytes.length - 1}/${bytes.length}`,
    });
    response.write(bytes.subarray(from, from + MIB - 1000), () => response.destroy());
    return true;
  };
  const file = (await store.localFile(digest))!;
  expect(readFileSync(file.path).equals(bytes)).toBe(true);
  expect(breaks).toBeGreaterThan(4);
  await file.close();
});

test('bytes that change on their way are never given to anybody, and do not cost the blob', async () => {
  const [small, large] = [randomBytes(5000), randomBytes(2 * MIB)];
  const writer = await another();
  const digests = [await writer.put(small), await writer.put(large)];
  const damaged = new Set<string>();
  server.change = (what, piece) => {
    if (!/^GET .*blobs\/sha256/.test(what) || damaged.has(what)) return piece;
    damaged.add(what);
    const changed = Buffer.from(piece);
    changed[10]! ^= 1;
    return changed;
  };
  const store = await another();
  for (const [index, bytes] of [small, large].entries()) {
    const source = (await store.open(digests[index]!))!;
    expect((await readAll(source)).equals(bytes)).toBe(true);
    await source.close();
  }
  expect(damaged.size).toBe(2);
  expect(await (await another()).stat(digests[0]!)).not.toBeNull();
});

test.each([
  ['flipped', (path: string) => flip(path)],
  ['cut short', (path: string) => truncateSync(path, 700)],
  ['emptied', (path: string) => truncateSync(path, 0)],
])('an object that was %s is not taken for the blob, and removed', async (_how, damage) => {
  const small = randomBytes(1000);
  const large = randomBytes(MIB);
  const writer = await another();
  for (const bytes of [small, large]) {
    const digest = await writer.put(bytes);
    damage(fileOf(digest));
    const store = await another();
    const source = await store.open(digest);
    if (source !== null) {
      expect(await refusedPieces(source, bytes)).toBeGreaterThan(0);
      await source.close();
    }
    expect(await store.localFile(digest)).toBeNull();
    expect(await store.stat(digest)).toBeNull();
    await store.put(bytes);
    const again = (await (await another()).open(digest))!;
    expect((await readAll(again)).equals(bytes)).toBe(true);
    await again.close();
  }
});

test('without its table, or with a damaged one, a blob is read all the same', async () => {
  const bytes = randomBytes(MIB);
  const digest = await (await another()).put(bytes);
  flip(fileOf(digest, 'tables'));
  for (let round = 0; round < 2; round++) {
    const file = (await (await another()).localFile(digest))!;
    expect(readFileSync(file.path).equals(bytes)).toBe(true);
    await file.close();
  }
  const store = await another();
  await expect(async () => readFileSync(fileOf(digest, 'tables'))).rejects.toThrow(/ENOENT/);
  const source = (await store.open(digest))!;
  expect((await readAll(source)).equals(bytes)).toBe(true);
  await source.close();
});

test('an object that is lost while it is read fails the read clearly, and is absent then', async () => {
  const bytes = randomBytes(20 * MIB);
  const digest = await (await another()).put(bytes);
  const store = await another();
  const source = (await store.open(digest))!;
  await (await another()).remove(digest);
  const failing = source.read(15 * MIB, Buffer.alloc(1000));
  await expect(failing).rejects.toMatchObject({ code: 'ERR_SOURCE_CORRUPT', message: /gone/ });
  await source.close();
  expect(await store.open(digest)).toBeNull();
});

test('a check mends what is damaged there from an intact copy here, and what is damaged here from there', async () => {
  const bytes = randomBytes(MIB);
  const store = await another();
  const digest = await store.put(bytes);
  for (const path of [fileOf(digest), join(store.scratch(), '..', keyOf(digest))]) {
    flip(path);
    expect(await store.verify(digest)).toBe('intact');
    const source = (await store.open(digest))!;
    expect((await readAll(source)).equals(bytes)).toBe(true);
    await source.close();
    const elsewhere = (await (await another()).localFile(digest))!;
    expect(readFileSync(elsewhere.path).equals(bytes)).toBe(true);
    await elsewhere.close();
  }
});
