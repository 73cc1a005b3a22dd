import { expect, test, vi } from 'vitest';
import {
  begun,
  catalog,
  convertedFrom,
  image,
  index,
  MINUTE_MS,
  queue,
  recordOf,
  start,
  stateOf,
  statesOf,
  tick,
  useConversionQueue,
  WHERE,
} from '../../../test/support/conversion-queue.ts';
import { ConvertError } from '../../convert/errors.ts';
import { RegistryError } from '../../oci/errors.ts';
import { StoreError } from '../../store/errors.ts';
import type { Converter } from './conversion-queue.ts';
import { conversionStatus } from './conversion-status.ts';

useConversionQueue();

const broken: Converter = async () => {
  throw new ConvertError('ERR_CONVERT_STREAM', 'layer 2 is broken');
};
const diskFull: Converter = async () => {
  throw new StoreError('ERR_STORE_FULL', 'no space left');
};

test('an index is assembled of what could be converted', async () => {
  const [good, bad] = [image('good'), image('bad')];
  const both = index(good, bad);
  start(async (record) => {
    if (record.digest === bad.digest) throw new Error('a foreign layer');
    return convertedFrom(record);
  });
  await queue.offer(WHERE, both);
  await tick(3000);
  expect(await statesOf(good, bad, both)).toEqual(['done', 'failed', 'done']);
});

test('a lasting failure keeps its reason, and no pull has it tried again or its manifest read', async () => {
  const enqueue = vi.spyOn(catalog.conversions, 'enqueue');
  start(broken);
  const one = image('one');
  await queue.offer(WHERE, one);
  await tick();
  await queue.offer(WHERE, one);
  await tick(24 * 60 * MINUTE_MS);
  await queue.offer(WHERE, one);
  await tick(1000);
  expect(begun).toHaveLength(1);
  expect(enqueue).toHaveBeenCalledTimes(1);
  const record = (await recordOf(one))!;
  expect(await conversionStatus(record, catalog.conversions)).toMatchObject({
    state: 'failed',
    error: 'layer 2 is broken',
    errorCode: 'ERR_CONVERT_STREAM',
    attempts: 1,
    nextAttemptAt: null,
  });
});

test('a lasting failure is tried again by the first pull under another policy', async () => {
  start(broken);
  const one = image('one');
  await queue.offer(WHERE, one);
  await tick();
  await queue.stop();
  start(undefined, { policy: 'v2' });
  await tick(MINUTE_MS);
  expect(await stateOf(one)).toBe('failed');
  await queue.offer(WHERE, one);
  await tick();
  expect(await stateOf(one)).toBe('done');
});

test('a lasting failure is tried again when somebody asks for it', async () => {
  start(async (record, options) => (begun.length === 1 ? broken(record, options) : convertedFrom(record)));
  const one = image('one');
  await queue.offer(WHERE, one);
  await tick();
  await queue.retry(one.digest);
  await tick();
  expect(await stateOf(one)).toBe('done');
});

test('a failure that passes is tried again by itself, later and later; pulls do not hasten it', async () => {
  start(diskFull);
  const one = image('one');
  await queue.offer(WHERE, one);
  await tick();
  const status = async () => conversionStatus((await recordOf(one))!, catalog.conversions);
  expect(await status()).toMatchObject({ state: 'failed', errorCode: 'ERR_STORE_FULL', attempts: 1 });
  const waitMs = Date.parse((await status()).nextAttemptAt!) - Date.now();
  expect(waitMs).toBeGreaterThanOrEqual(MINUTE_MS);
  expect(waitMs).toBeLessThanOrEqual(1.25 * MINUTE_MS);
  await queue.offer(WHERE, one);
  await tick(0.9 * MINUTE_MS);
  expect(begun).toHaveLength(1);
  await tick(0.4 * MINUTE_MS);
  expect(begun).toHaveLength(2);
  await tick(1.5 * MINUTE_MS);
  expect(begun).toHaveLength(2);
  await tick(2 * 24 * 60 * MINUTE_MS);
  expect(begun).toHaveLength(24);
  expect(await status()).toMatchObject({ state: 'failed', attempts: 24, nextAttemptAt: null });
});

test('a time too far away for a timer is no reason to look at the queue all the time', async () => {
  start(async () => {
    throw new RegistryError(
      'ERR_REGISTRY_RATE_LIMITED',
      { ...WHERE, host: 'reg.example', reference: null },
      '',
      {
        retryAfterMs: 60 * 24 * 60 * MINUTE_MS,
      },
    );
  });
  await queue.offer(WHERE, image('one'));
  await tick();
  const takeNext = vi.spyOn(catalog.conversions, 'takeNext');
  await tick(1000);
  expect(takeNext).not.toHaveBeenCalled();
});

test('what is tried again waits behind what was not tried yet', async () => {
  const gates: PromiseWithResolvers<void>[] = [];
  start(async (record, options) => {
    const gate = Promise.withResolvers<void>();
    gates.push(gate);
    await gate.promise;
    return begun.length === 1 ? diskFull(record, options) : convertedFrom(record);
  });
  const [failing, running, fresh] = [image('failing'), image('running'), image('fresh')];
  await queue.offer(WHERE, failing);
  await tick();
  await queue.offer(WHERE, running);
  gates[0]!.resolve();
  await tick(2 * MINUTE_MS);
  await queue.offer(WHERE, fresh);
  gates[1]!.resolve();
  await tick();
  gates[2]!.resolve();
  await tick();
  gates[3]!.resolve();
  await tick();
  expect(begun).toEqual([failing, running, fresh, failing].map((each) => each.digest));
});

test('a conversion whose outcome could not be written is made again', async () => {
  const broken = vi.spyOn(catalog.conversions, 'setFailed').mockImplementation(() => {
    throw new Error('database or disk is full');
  });
  start(async (record) => {
    if (begun.length === 1) throw new Error('no space left');
    return convertedFrom(record);
  });
  const one = image('one');
  await queue.offer(WHERE, one);
  await tick();
  broken.mockRestore();
  await tick(60_000);
  expect(await stateOf(one)).toBe('done');
});

test('progress that cannot be written does not end the conversion', async () => {
  vi.spyOn(catalog.conversions, 'setProgress').mockImplementation(() => {
    throw new Error('database or disk is full');
  });
  start(async (record, { onProgress }) => {
    onProgress({ layersDone: 1, layersTotal: 1, bytesDone: 1, bytesTotal: 1 });
    return convertedFrom(record);
  });
  const one = image('one');
  await queue.offer(WHERE, one);
  await tick();
  expect(await stateOf(one)).toBe('done');
});

test('a failed image of a finished index is tried again by itself, then the index is put together again', async () => {
  const [one, two] = [image('one'), image('two')];
  const both = index(one, two);
  start(async (record) => {
    if (record.digest === two.digest && begun.length < 4) throw new Error('upstream is down');
    return convertedFrom(record);
  });
  await queue.offer(WHERE, both);
  await tick(5_000);
  expect(await statesOf(two, both)).toEqual(['failed', 'done']);
  const enqueue = vi.spyOn(catalog.conversions, 'enqueueIndex');
  await queue.offer(WHERE, both);
  await tick(5_000);
  expect(await stateOf(two)).toBe('failed');
  expect(enqueue).not.toHaveBeenCalled();
  await tick(2 * MINUTE_MS);
  expect(await statesOf(two, both)).toEqual(['done', 'done']);
  expect(begun.slice(3)).toEqual([two.digest, both.digest]);
});
