import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pino } from 'pino';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { ConvertError } from '../convert/errors.ts';
import { OVERLAYBD_VERSION_ANNOTATION } from '../oci/annotations.ts';
import { type Digest, digestOf } from '../oci/digest.ts';
import { OCI_CONFIG, OCI_INDEX, OCI_LAYER_TAR, OCI_MANIFEST } from '../oci/media-types.ts';
import { Catalog } from '../store/catalog.ts';
import { PRIORITY } from '../store/conversion-priority.ts';
import type { ConversionRecord } from '../store/conversion-table.ts';
import { StoreError } from '../store/errors.ts';
import { ConversionNews } from './conversion-news.ts';
import { ConversionQueue, type Converter } from './conversion-queue.ts';
import { ConversionSelection, type SelectionOptions } from './conversion-selection.ts';
import { conversionStatus } from './conversion-status.ts';
import type { ServedManifest } from './manifests.ts';

const WHERE = { upstream: 'reg.example', repository: 'lib/a' };
const MINUTE_MS = 60_000;
const log = pino({ level: 'silent' });

let directory: string;
let catalog: Catalog;
let queue: ConversionQueue;
/** Digests in the order in which their conversions began. */
let begun: Digest[];

beforeEach(async () => {
  vi.useFakeTimers({ toFake: ['Date', 'setTimeout', 'clearTimeout'] });
  directory = mkdtempSync(join(tmpdir(), 'dadi-queue-'));
  catalog = await openCatalog();
  begun = [];
});

afterEach(async () => {
  await queue.stop();
  await catalog.close();
  rmSync(directory, { recursive: true });
  vi.useRealTimers();
});

function start(
  convert: Converter = async (record) => convertedFrom(record),
  {
    policy = 'v1',
    indexImages = 3,
    images = 1,
    pollMs = null as number | null,
    select = {} as Partial<SelectionOptions>,
  } = {},
): void {
  queue = new ConversionQueue({
    catalog,
    onDone: async () => {},
    profile: 'p',
    policy,
    selection: new ConversionSelection({
      ...{ include: [], exclude: [], platforms: 'all', minImageBytes: 0 },
      ...select,
    }),
    indexImages,
    images,
    leaseMs: 30_000,
    pollMs,
    news: new ConversionNews(),
    log,
    convert: (record, options) => {
      begun.push(record.digest);
      return convert(record, options);
    },
  });
  queue.start();
}

function convertedFrom({ digest }: ConversionRecord) {
  const mediaType = OCI_MANIFEST;
  return { digest: digestOf(`converted ${digest}`), mediaType, sizeBytes: 1, layerBytes: 1, parts: [] };
}

function served(value: object, mediaType: string): ServedManifest {
  const bytes = Buffer.from(JSON.stringify({ schemaVersion: 2, ...value }));
  return { digest: digestOf(bytes), mediaType, bytes, source: 'cache', warning: null };
}

function image(name: string, layer: object = {}): ServedManifest {
  const config = { mediaType: OCI_CONFIG, digest: digestOf(name), size: 1 };
  const layers = [{ mediaType: OCI_LAYER_TAR, digest: digestOf(`${name} layer`), size: 1, ...layer }];
  return served({ config, layers }, OCI_MANIFEST);
}

function index(...images: ServedManifest[]): ServedManifest {
  const manifests = images.map(({ digest, bytes, mediaType }, at) => ({
    mediaType,
    digest,
    size: bytes.length,
    platform: { os: 'linux', architecture: ['amd64', 'arm64', 's390x'][at] },
  }));
  const attestation = {
    mediaType: OCI_MANIFEST,
    digest: digestOf('attestation'),
    size: 1,
    platform: { os: 'unknown', architecture: 'unknown' },
    annotations: { 'vnd.docker.reference.type': 'attestation-manifest' },
  };
  return served({ manifests: [...manifests, attestation] }, OCI_INDEX);
}

const enqueue = ({ digest }: { digest: Digest }) =>
  catalog.conversions.enqueue(
    {
      ...{ ...WHERE, digest, profile: 'p', kind: 'image', platform: null },
      ...{ priority: PRIORITY.pulled, notBeforeMs: 0, policy: 'v1' },
    },
    0,
  );
const openCatalog = () => Catalog.openSqlite(join(directory, 'catalog.db'));
const recordOf = ({ digest }: { digest: Digest }) => catalog.conversions.get(digest, 'p');
const stateOf = async (manifest: ServedManifest) => (await recordOf(manifest))?.state ?? null;
const statesOf = (...manifests: ServedManifest[]) => Promise.all(manifests.map(stateOf));
const tick = (ms = 0) => vi.advanceTimersByTimeAsync(ms);

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

/** Conversions that go on until they are told to end. */
function gated() {
  const gates = new Map<Digest, PromiseWithResolvers<void>>();
  const convert: Converter = async (record, { signal }) => {
    const gate = Promise.withResolvers<void>();
    gates.set(record.digest, gate);
    signal.addEventListener('abort', () => gate.reject(signal.reason));
    await gate.promise;
    return convertedFrom(record);
  };
  return { convert, end: ({ digest }: { digest: Digest }) => gates.get(digest)!.resolve() };
}

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

test('what another process queues in the same catalog is seen', async () => {
  start(undefined, { pollMs: 3_000 });
  await tick();
  const one = image('one');
  await enqueue(one);
  await tick(6_000);
  expect(await stateOf(one)).toBe('done');
});

test('a conversion that another process has taken meanwhile is given up, and its outcome not spoiled', async () => {
  vi.useRealTimers();
  vi.useFakeTimers({ toFake: ['Date', 'setTimeout', 'clearTimeout', 'setInterval', 'clearInterval'] });
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
  vi.useRealTimers();
  vi.useFakeTimers({ toFake: ['Date', 'setTimeout', 'clearTimeout', 'setInterval', 'clearInterval'] });
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

const broken: Converter = async () => {
  throw new ConvertError('ERR_CONVERT_STREAM', 'layer 2 is broken');
};
const diskFull: Converter = async () => {
  throw new StoreError('ERR_STORE_FULL', 'no space left');
};

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

test('an image that the process dies of is given up after some starts', async () => {
  const one = image('one');
  start(() => new Promise(() => {}));
  await queue.offer(WHERE, one);
  await tick();
  for (let death = 0; death < 3; death++) {
    expect(await stateOf(one)).toBe('running');
    await catalog.close();
    catalog = await openCatalog();
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

test('of an index with too many images none is queued, but those that are pulled', async () => {
  const [one, two] = [image('one'), image('two')];
  const both = index(one, two);
  start(
    async (record, options) => (record.kind === 'index' ? broken(record, options) : convertedFrom(record)),
    { indexImages: 1 },
  );
  await queue.offer(WHERE, both);
  await tick(5000);
  expect(await statesOf(both, one, two)).toEqual(['failed', null, null]);
  await queue.offer(WHERE, two);
  await tick();
  expect(await stateOf(two)).toBe('done');
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
  await catalog.close();
  catalog = await openCatalog();
  start();
  await tick();
  expect(await stateOf(one)).toBe('done');
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
