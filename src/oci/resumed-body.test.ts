import { randomBytes } from 'node:crypto';
import { Readable } from 'node:stream';
import { expect, test } from 'vitest';
import { type BlobBody, ResumedBody } from './resumed-body.ts';

const BLOB = randomBytes(100_000);
const CONTEXT = { host: 'reg.example', repository: 'lib/a', reference: null };

/** Of the blob's bytes from `start` to `end`, then the connection breaks unless all have come. */
function answer(start: number, end: number, sizeBytes = BLOB.length): BlobBody {
  const pieces = async function* () {
    for (let at = start; at < end; at += 1000) yield BLOB.subarray(at, Math.min(at + 1000, end));
    if (end < BLOB.length) throw new Error('cut');
  };
  return { sizeBytes, offsetBytes: start, body: Readable.from(pieces()) };
}

/** All bytes that come of these answers, and from where on each was asked for. */
async function read(...answers: ((offset: number) => BlobBody)[]) {
  const offsets: number[] = [];
  const fetch = async (offset: number) => {
    offsets.push(offset);
    return answers[offsets.length - 1]!(offset);
  };
  const body = await ResumedBody.begin({ start: 0 }, fetch, CONTEXT, new AbortController().signal);
  const pieces: Buffer[] = [];
  for await (const batch of body.batches()) pieces.push(...batch);
  return { offsets, bytes: Buffer.concat(pieces) };
}

test('what broke off goes on where it was', async () => {
  const { offsets, bytes } = await read(
    (offset) => answer(offset, 40_000),
    (offset) => answer(offset, 70_500),
    (offset) => answer(offset, BLOB.length),
  );
  expect(offsets).toEqual([0, 40_000, 70_500]);
  expect(bytes.equals(BLOB)).toBe(true);
});

test('of an upstream that begins anew each byte is given once', async () => {
  const { offsets, bytes } = await read(
    () => answer(0, 40_000),
    () => answer(0, 30_000),
    () => answer(0, BLOB.length),
  );
  expect(offsets).toEqual([0, 40_000, 40_000]);
  expect(bytes.equals(BLOB)).toBe(true);
});

test('a blob whose size has changed meanwhile is another one: the download fails at once', async () => {
  let later: BlobBody | null = null;
  const reading = read(
    (offset) => answer(offset, 40_000),
    (offset) => {
      later = answer(offset, BLOB.length, BLOB.length + 1);
      return later;
    },
  );
  await expect(reading).rejects.toMatchObject({
    code: 'ERR_REGISTRY_PROTOCOL',
    message: expect.stringContaining('100000 bytes when the download began, and 100001'),
  });
  expect(later!.body.destroyed).toBe(true);
});
