import { expect, test, vi } from 'vitest';
import {
  catalog,
  enqueue,
  image,
  queue,
  recordOf,
  reopenCatalog,
  start,
  stateOf,
  tick,
  useConversionQueue,
  WHERE,
} from '../../../test/support/conversion-queue.ts';

useConversionQueue();

test('what another process queues in the same catalog is seen', async () => {
  start(undefined, { pollMs: 3_000 });
  await tick();
  const one = image('one');
  await enqueue(one);
  await tick(6_000);
  expect(await stateOf(one)).toBe('done');
});

test('a conversion that another process has taken meanwhile is given up, and its outcome not spoiled', async () => {
  const aborted = vi.fn();
  start((_record, { signal }) => {
    signal.addEventListener('abort', aborted);
    return new Promise((_resolve, reject) => signal.addEventListener('abort', () => reject(signal.reason)));
  });
  const one = image('one');
  await queue.offer(WHERE, one);
  await tick();
  vi.spyOn(catalog.conversions, 'renew').mockResolvedValue(false);
  await tick(15_000);
  expect(aborted).toHaveBeenCalledTimes(1);
  expect(await recordOf(one)).toMatchObject({ state: 'running', attempts: 0 });
});

test('a conversion whose lease cannot be renewed is given up when it ends', async () => {
  const aborted = vi.fn();
  start((_record, { signal }) => {
    signal.addEventListener('abort', aborted);
    return new Promise((_resolve, reject) => signal.addEventListener('abort', () => reject(signal.reason)));
  });
  await queue.offer(WHERE, image('one'));
  await tick();
  vi.spyOn(catalog.conversions, 'renew').mockRejectedValue(new Error('the database is away'));
  await tick(25_000);
  expect(aborted).not.toHaveBeenCalled();
  await tick(6_000);
  expect(aborted).toHaveBeenCalledTimes(1);
});

test('an image that the process dies of is given up after some starts', async () => {
  const one = image('one');
  start(() => new Promise(() => {}));
  await queue.offer(WHERE, one);
  await tick();
  for (let death = 0; death < 3; death++) {
    expect(await stateOf(one)).toBe('running');
    await reopenCatalog();
    start(() => new Promise(() => {}));
    await tick();
  }
  expect(await recordOf(one)).toMatchObject({
    state: 'failed',
    errorCode: 'ERR_PROXY_DIED',
  });
  const other = image('other');
  start();
  await queue.offer(WHERE, other);
  await tick();
  expect(await stateOf(other)).toBe('done');
});

test('what runs when the queue is stopped is queued again, and goes on after the next start', async () => {
  start(async (_record, { signal }) => {
    await new Promise((_resolve, reject) => signal.addEventListener('abort', () => reject(signal.reason)));
    throw new Error('not reached');
  });
  const one = image('one');
  await queue.offer(WHERE, one);
  await tick();
  expect(await stateOf(one)).toBe('running');
  await queue.stop();
  expect(await stateOf(one)).toBe('queued');
  start();
  await tick();
  expect(await stateOf(one)).toBe('done');
});

test('what ran when the process was killed goes on after the next start', async () => {
  const one = image('one');
  await enqueue(one);
  await catalog.conversions.takeNext('p', 30_000, 1);
  await reopenCatalog();
  start();
  await tick();
  expect(await stateOf(one)).toBe('done');
});
