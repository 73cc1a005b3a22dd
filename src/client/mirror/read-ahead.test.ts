import { expect, test } from 'vitest';
import { randomBytes } from '../../../test/support/random-bytes.ts';
import { BufferSource } from '../../format/buffer-source.ts';
import { ReadAhead, ReadAheadMemory } from './read-ahead.ts';

const MIB = 1024 * 1024;
const BYTES = randomBytes(6 * MIB + 5, 71);
const NEVER = new AbortController().signal;

/** Counts what is read of it. */
class CountingSource extends BufferSource {
  readBytes = 0;

  override async read(offset: number, target: Buffer): Promise<void> {
    this.readBytes += target.length;
    await super.read(offset, target);
  }
}

async function all(ahead: ReadAhead): Promise<Buffer> {
  const whole = Buffer.alloc(BYTES.length);
  for (let at = 0; at < whole.length; ) {
    const end = await ahead.readableTo({ start: at, end: whole.length }, NEVER);
    await ahead.read(at, whole.subarray(at, end));
    at = end;
  }
  return whole;
}

test('many readers whose clients take nothing hold no more than they share, and a little each', async () => {
  const memory = new ReadAheadMemory(10 * MIB);
  const source = new CountingSource(BYTES);
  const readers = Array.from({ length: 100 }, () => new ReadAhead(source, memory, NEVER));
  for (const reader of readers) await reader.readableTo({ start: 0, end: BYTES.length }, NEVER);
  expect(source.readBytes).toBeLessThanOrEqual(10 * MIB + (100 * MIB) / 4);
  // Each goes on all the same, and what it gives back others get.
  for (const reader of readers.slice(-3)) expect((await all(reader)).equals(BYTES)).toBe(true);
  for (const reader of readers) reader.close();
  const before = source.readBytes;
  await new ReadAhead(source, memory, NEVER).readableTo({ start: 0, end: BYTES.length }, NEVER);
  expect(source.readBytes - before).toBe(4 * MIB);
});
