import { expect, test, vi } from 'vitest';
import {
  begun,
  catalog,
  convertedFrom,
  enqueue,
  gated,
  image,
  index,
  MINUTE_MS,
  queue,
  recordOf,
  served,
  start,
  stateOf,
  statesOf,
  tick,
  useConversionQueue,
  WHERE,
} from '../../../test/support/conversion-queue.ts';
import { OVERLAYBD_VERSION_ANNOTATION } from '../../oci/annotations.ts';
import type { Digest } from '../../oci/digest.ts';
import { digestOf } from '../../oci/digest.ts';
import { PRIORITY } from '../../store/conversion-priority.ts';
import { conversionStatus } from './conversion-status.ts';

useConversionQueue();

test('an image is converted once, however often it is pulled', async () => {
  start();
  const one = image('one');
  await queue.offer(WHERE, one);
  await queue.offer(WHERE, one);
  await tick();
  await queue.offer({ ...WHERE, repository: 'lib/b' }, one);
  await tick();
  expect(begun).toEqual([one.digest]);
  expect(await recordOf(one)).toMatchObject({
    state: 'done',
    converted: { digest: digestOf(`converted ${one.digest}`) },
    ...WHERE,
  });
});

test('one image at a time is converted, in the order of the pulls', async () => {
  const gates = new Map<Digest, PromiseWithResolvers<void>>();
  start(async (record) => {
    const gate = Promise.withResolvers<void>();
    gates.set(record.digest, gate);
    await gate.promise;
    return convertedFrom(record);
  });
  const [one, two] = [image('one'), image('two')];
  await queue.offer(WHERE, one);
  await tick(1);
  await queue.offer(WHERE, two);
  await tick(1);
  expect(await statesOf(one, two)).toEqual(['running', 'queued']);
  gates.get(one.digest)!.resolve();
  await tick();
  expect(await statesOf(one, two)).toEqual(['done', 'running']);
  gates.get(two.digest)!.resolve();
  await tick();
});

test('several images are converted at once, no more than are allowed', async () => {
  const { convert, end } = gated();
  start(convert, { images: 2 });
  const images = ['one', 'two', 'three'].map((name) => image(name));
  for (const each of images) {
    await queue.offer(WHERE, each);
    await tick(1);
  }
  expect(await statesOf(...images)).toEqual(['running', 'running', 'queued']);
  end(images[1]!);
  await tick(1);
  expect(await statesOf(...images)).toEqual(['running', 'done', 'running']);
});

test('an image that a node waits for begins though all places are taken, once', async () => {
  const { convert, end } = gated();
  start(convert);
  const [running, queued, awaited, alsoAwaited] = ['a', 'b', 'c', 'd'].map((name) => image(name));
  await queue.offer(WHERE, running!);
  await tick(1);
  await queue.offer(WHERE, queued!);
  await queue.offer(WHERE, awaited!);
  await queue.offer(WHERE, alsoAwaited!);
  await tick(1);
  expect(begun).toEqual([running!.digest]);
  await queue.offer(WHERE, awaited!, PRIORITY.waitingNode);
  await queue.offer(WHERE, alsoAwaited!, PRIORITY.waitingNode);
  await tick(1);
  expect(begun).toEqual([running!.digest, awaited!.digest]);
  end(running!);
  await tick(1);
  expect(begun).toEqual([running!.digest, awaited!.digest, alsoAwaited!.digest]);
  expect(await stateOf(queued!)).toBe('queued');
});

test('a node that waits for a running image makes it more urgent than the other running ones', async () => {
  const priorities = new Map<Digest, () => number>();
  start(
    (record, { priority, signal }) => {
      priorities.set(record.digest, priority);
      return new Promise((_resolve, reject) => signal.addEventListener('abort', () => reject(signal.reason)));
    },
    { images: 2 },
  );
  const [one, two] = [image('one'), image('two')];
  await queue.offer(WHERE, one);
  await queue.offer(WHERE, two, PRIORITY.preheat);
  await tick(1);
  const now = () => [one, two].map(({ digest }) => priorities.get(digest)!());
  expect(now()).toEqual([PRIORITY.pulled, PRIORITY.preheat]);
  await queue.offer(WHERE, two, PRIORITY.waitingNode);
  expect(now()).toEqual([PRIORITY.pulled, PRIORITY.waitingNode]);
});

test('an image that begins just when a node asks for it is as urgent as one that runs', async () => {
  let priority = () => -1;
  const { convert } = gated();
  start((record, options) => {
    priority = options.priority;
    return convert(record, options);
  });
  await tick();
  const one = image('one');
  await enqueue(one);
  const get = catalog.conversions.get.bind(catalog.conversions);
  vi.spyOn(catalog.conversions, 'get').mockImplementationOnce(async (digest, profile) => {
    await queue.retry(digestOf('another one'));
    await tick();
    return get(digest, profile);
  });
  await queue.offer(WHERE, one, PRIORITY.waitingNode);
  expect(begun).toEqual([one.digest]);
  expect(priority()).toBe(PRIORITY.waitingNode);
});

test('what is pulled goes before what is preheated', async () => {
  const { convert, end } = gated();
  start(convert);
  const [running, preheated, pulled] = [image('running'), image('preheated'), image('pulled')];
  await queue.offer(WHERE, running);
  await tick(1);
  await queue.offer(WHERE, preheated, PRIORITY.preheat);
  await queue.offer(WHERE, pulled);
  end(running);
  await tick(1);
  expect(begun).toEqual([running.digest, pulled.digest]);
});

test('of an index, only platforms of the list are converted unasked; then the index, and again after each other one', async () => {
  start(undefined, { select: { platforms: ['linux/amd64'] } });
  const [amd64, arm64] = [image('amd64'), image('arm64')];
  const both = index(amd64, arm64);
  await queue.offer(WHERE, both);
  await tick(3000);
  expect(begun).toEqual([amd64.digest, both.digest]);
  expect(await stateOf(arm64)).toBeNull();
  await queue.offer(WHERE, arm64);
  await tick(1);
  expect(begun).toEqual([amd64.digest, both.digest, arm64.digest, both.digest]);
});

test('an index of which only requested platforms are converted waits until one is pulled', async () => {
  start(undefined, { select: { platforms: 'requested' } });
  const [amd64, arm64] = [image('amd64'), image('arm64')];
  const both = index(amd64, arm64);
  await queue.offer(WHERE, both);
  await tick(10_000);
  expect(begun).toEqual([]);
  expect(await stateOf(both)).toBe('queued');
  await queue.offer(WHERE, arm64);
  await tick(1);
  expect(begun).toEqual([arm64.digest, both.digest]);
});

const statusNow = async (of: { digest: Digest }) =>
  conversionStatus((await recordOf(of))!, catalog.conversions);

test('what is excluded is left as it is, and pulled again and again without being read', async () => {
  start(undefined, { select: { exclude: ['reg.example/lib/*'] } });
  const one = image('one');
  await queue.offer(WHERE, one);
  const leave = vi.spyOn(catalog.conversions, 'leave');
  await queue.offer(WHERE, one);
  await tick(MINUTE_MS);
  expect(begun).toEqual([]);
  expect(leave).not.toHaveBeenCalled();
  expect(await statusNow(one)).toMatchObject({
    state: 'left',
    error: expect.stringContaining('conversion.exclude has "reg.example/lib/*"'),
  });
});

test('an index excluded by its tag is left with its images, until another tag means them', async () => {
  start(undefined, { select: { exclude: ['**:nightly'] } });
  const [amd64, arm64] = [image('amd64'), image('arm64')];
  const both = index(amd64, arm64);
  await catalog.putTag(WHERE, 'nightly', { digest: both.digest, checkedAtMs: 1 });
  await queue.offer(WHERE, both);
  await queue.offer(WHERE, amd64);
  await tick(5000);
  expect(begun).toEqual([]);
  expect((await statusNow(amd64)).state).toBe('left');
  await catalog.putTag(WHERE, '1.0', { digest: both.digest, checkedAtMs: 1 });
  await queue.offer(WHERE, both);
  await tick(5000);
  expect(begun.toSorted()).toEqual([amd64.digest, arm64.digest, both.digest].toSorted());
});

test('what was left as it is is converted when the patterns allow it, at its next pull', async () => {
  start(undefined, { select: { exclude: ['**'] } });
  const one = image('one');
  await queue.offer(WHERE, one);
  await queue.stop();
  start();
  await queue.offer(WHERE, one);
  await tick();
  expect(await stateOf(one)).toBe('done');
});

test('what waits says how many are before it', async () => {
  const { convert } = gated();
  start(convert);
  const [running, first, second, awaited] = ['a', 'b', 'c', 'd'].map((name) => image(name));
  for (const each of [running!, first!, second!]) {
    await queue.offer(WHERE, each);
    await tick(1);
  }
  expect([(await statusNow(first!)).ahead, (await statusNow(second!)).ahead]).toEqual([0, 1]);
  await queue.offer(WHERE, awaited!, PRIORITY.preheat);
  expect((await statusNow(awaited!)).ahead).toBe(2);
  expect((await statusNow(running!)).ahead).toBeNull();
});

test('of an index the platform that is pulled comes first, the others follow, then the index', async () => {
  start();
  const [amd64, arm64] = [image('amd64'), image('arm64')];
  const both = index(amd64, arm64);
  await queue.offer(WHERE, both);
  await tick(500);
  expect(begun).toEqual([]);
  expect((await recordOf(arm64))?.platform).toBe('linux/arm64');
  await queue.offer(WHERE, arm64);
  await tick();
  expect(begun).toEqual([arm64.digest]);
  await tick(2000);
  expect(begun).toEqual([arm64.digest, amd64.digest, both.digest]);
  expect(await catalog.conversions.get(digestOf('attestation'), 'p')).toBeNull();
});

test('an image that is pulled goes before platforms that nobody asked for', async () => {
  const gate = Promise.withResolvers<void>();
  start(async (record) => {
    if (begun.length === 1) await gate.promise;
    return convertedFrom(record);
  });
  const [first, amd64, arm64, asked] = [image('first'), image('amd64'), image('arm64'), image('asked')];
  await queue.offer(WHERE, first);
  await queue.offer(WHERE, index(amd64, arm64));
  await tick(3000);
  await queue.offer(WHERE, asked);
  gate.resolve();
  await tick();
  expect(begun.slice(0, 2)).toEqual([first.digest, asked.digest]);
});

test('of an index with too many images none is queued, but those that are pulled', async () => {
  const [one, two] = [image('one'), image('two')];
  const both = index(one, two);
  start(
    async (record) => {
      if (record.kind === 'index') throw new Error('it lists too many');
      return convertedFrom(record);
    },
    { indexImages: 1 },
  );
  await queue.offer(WHERE, both);
  await tick(5000);
  expect(await statesOf(both, one, two)).toEqual(['failed', null, null]);
  await queue.offer(WHERE, two);
  await tick();
  expect(await stateOf(two)).toBe('done');
});

test('artifacts, converted images, empty indexes and what cannot be read are not queued', async () => {
  start();
  const artifact = image('artifact', { mediaType: 'application/vnd.example.thing' });
  const converted = image('converted', { annotations: { [OVERLAYBD_VERSION_ANNOTATION]: '0.1.0' } });
  for (const each of [artifact, converted, index(), served({ schemaVersion: 1 }, 'text/plain')]) {
    await queue.offer(WHERE, each);
  }
  await tick(3000);
  expect(await catalog.conversions.list()).toEqual([]);
});

test('progress is told while it runs, an index sums up its images', async () => {
  const gate = Promise.withResolvers<void>();
  start(async (record, { onProgress }) => {
    onProgress({ layersDone: 1, layersTotal: 3, bytesDone: 10, bytesTotal: 40 });
    if (begun.length === 1) await gate.promise;
    onProgress({ layersDone: 3, layersTotal: 3, bytesDone: 40, bytesTotal: 40 });
    return convertedFrom(record);
  });
  const both = index(image('amd64'), image('arm64'));
  await queue.offer(WHERE, both);
  await tick(2000);
  const status = async () => conversionStatus((await recordOf(both))!, catalog.conversions);
  expect(await status()).toMatchObject({ state: 'running', layersDone: 1, layersTotal: 3, bytesDone: 10 });
  gate.resolve();
  await tick(1000);
  expect(await status()).toMatchObject({
    state: 'done',
    layersDone: 6,
    layersTotal: 6,
    bytesDone: 80,
    bytesTotal: 80,
  });
});
