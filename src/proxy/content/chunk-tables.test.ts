import { expect, test } from 'vitest';
import { randomBytes } from '../../../test/support/random-bytes.ts';
import type { ByteSource } from '../../format/byte-source.ts';
import { digestOf } from '../../oci/digest.ts';
import { ChunkTables } from './chunk-tables.ts';

const BLOB = randomBytes(600_000, 3);
const DIGEST = digestOf(BLOB);
const NEVER = new AbortController().signal;

/** The blob, and what becomes of it. */
class CountedBlob implements ByteSource {
  readonly size = BLOB.length;
  bytesRead = 0;
  closed = 0;
  readonly #fails: boolean;

  constructor(fails = false) {
    this.#fails = fails;
  }

  async read(offset: number, target: Buffer): Promise<void> {
    if (this.#fails) throw new Error('the disk failed');
    this.bytesRead += target.length;
    BLOB.copy(target, 0, offset);
  }

  async close(): Promise<void> {
    this.closed++;
  }
}

test('a blob is read once for all who want its table, at once or later', async () => {
  const tables = new ChunkTables(NEVER);
  const blobs = [new CountedBlob(), new CountedBlob(), new CountedBlob()] as const;
  const [first, second] = await Promise.all(blobs.slice(0, 2).map((blob) => tables.of(DIGEST, blob, NEVER)));
  expect(second).toEqual(first);
  expect(await tables.of(DIGEST, blobs[2], NEVER)).toEqual(first);
  expect(blobs.map(({ bytesRead }) => bytesRead)).toEqual([BLOB.length, 0, 0]);
  expect(blobs.map(({ closed }) => closed)).toEqual([1, 1, 1]);
});

test('a blob that cannot be read has no table then, and may have one later', async () => {
  const tables = new ChunkTables(NEVER);
  const broken = new CountedBlob(true);
  await expect(tables.of(DIGEST, broken, NEVER)).rejects.toThrow('the disk failed');
  expect(broken.closed).toBe(1);
  expect((await tables.of(DIGEST, new CountedBlob(), NEVER)).length).toBe(24 + 3 * 32);
});

test('who gives up does not take the table from the others', async () => {
  const tables = new ChunkTables(NEVER);
  const reason = new Error('gone');
  const given = tables.of(DIGEST, new CountedBlob(), AbortSignal.abort(reason));
  const other = tables.of(DIGEST, new CountedBlob(), NEVER);
  await expect(given).rejects.toBe(reason);
  expect((await other).length).toBe(24 + 3 * 32);
});
