import { expect, test } from 'vitest';
import { VirtualClock } from '../../../test/support/virtual-clock.ts';
import { UploadTurns } from './upload-turns.ts';

const KIB = 1024;
const never = new AbortController().signal;

/** Who was let send, when; each gives its turn back after `heldMs`. */
function start(bytesPerSecond: number, { maxInFlightBytes = 1e9, heldMs = 0 } = {}) {
  const clock = new VirtualClock();
  const turns = new UploadTurns({ bytesPerSecond, maxInFlightBytes }, clock);
  const sent: [string, number][] = [];
  const send = async (child: string, bytes: number, times = 1) => {
    for (let at = 0; at < times; at++) {
      const done = await turns.take(child, bytes, never);
      sent.push([child, clock.now()]);
      await clock.sleep(heldMs);
      done();
    }
  };
  return { clock, turns, sent, send };
}

test('children take turns, however many requests one has', async () => {
  const { clock, sent, send } = start(1000 * KIB);
  const greedy = Array.from({ length: 20 }, () => send('greedy', 100 * KIB, 2));
  const modest = send('modest', 100 * KIB, 5);
  await clock.run(Promise.all([...greedy, modest]));
  const last = sent.findLastIndex(([child]) => child === 'modest');
  // One in flight before it came, then each in turn.
  expect(last).toBeLessThanOrEqual(11);
});

test('no more than the host may send goes out in a second', async () => {
  const { clock, sent, send } = start(1000 * KIB);
  await clock.run(Promise.all(['a', 'b', 'c'].map((child) => send(child, 50 * KIB, 20))));
  expect(sent.length).toBe(60);
  const tookMs = sent.at(-1)![1];
  expect(tookMs).toBeGreaterThan(2_850);
  expect(tookMs).toBeLessThan(3_000);
});

test('after a pause only a little more goes out at once', async () => {
  const { clock, sent, send } = start(1000 * KIB);
  await clock.run(send('a', KIB));
  await clock.run(clock.sleep(60_000));
  const startMs = clock.now();
  await clock.run(send('a', 10 * KIB, 50));
  const atOnce = sent.slice(1).filter(([, atMs]) => atMs === startMs).length;
  expect(atOnce).toBeGreaterThan(3);
  expect(atOnce).toBeLessThan(8);
});

test('no more bytes are out than may be, but one piece always', async () => {
  const { clock, sent, send } = start(1e12, { maxInFlightBytes: 200, heldMs: 10 });
  await clock.run(Promise.all(['a', 'b', 'c', 'd'].map((child) => send(child, 100))));
  expect(sent.map(([, atMs]) => atMs)).toEqual([0, 0, 10, 10]);
  await clock.run(send('a', 1_000));
  expect(sent.length).toBe(5);
});

test('who is gone does not hold up the others', async () => {
  const { clock, turns, send, sent } = start(1e12, { maxInFlightBytes: 100, heldMs: 10 });
  const first = send('a', 100);
  const gone = new AbortController();
  const waiting = turns.take('b', 100, gone.signal);
  const last = send('c', 100);
  gone.abort(new Error('gone'));
  await expect(waiting).rejects.toThrow('gone');
  await clock.run(Promise.all([first, last]));
  expect(sent.map(([child]) => child)).toEqual(['a', 'c']);
});

test('a child that takes nothing any more does not hold up the others, however much it has asked for', async () => {
  const { clock, turns, send, sent } = start(1e12, { maxInFlightBytes: 1_000, heldMs: 10 });
  const stuck = Array.from({ length: 40 }, () => turns.take('stuck', 50, never));
  await clock.run(send('well', 50, 20));
  expect(sent.length).toBe(20);
  expect(await Promise.all(stuck.slice(0, 5))).toHaveLength(5);
});
