import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pino } from 'pino';
import { afterEach, beforeEach, vi } from 'vitest';
import { type Digest, digestOf } from '../../src/oci/digest.ts';
import { OCI_CONFIG, OCI_INDEX, OCI_LAYER_TAR, OCI_MANIFEST } from '../../src/oci/media-types.ts';
import type { ServedManifest } from '../../src/proxy/content/manifests.ts';
import { ConversionNews } from '../../src/proxy/conversion/conversion-news.ts';
import { ConversionQueue, type Converter } from '../../src/proxy/conversion/conversion-queue.ts';
import {
  ConversionSelection,
  type SelectionOptions,
} from '../../src/proxy/conversion/conversion-selection.ts';
import { Catalog } from '../../src/store/catalog.ts';
import { PRIORITY } from '../../src/store/conversion-priority.ts';
import type { ConversionRecord } from '../../src/store/conversion-table.ts';

export const WHERE = { upstream: 'reg.example', repository: 'lib/a' };
export const MINUTE_MS = 60_000;
const log = pino({ level: 'silent' });

let directory: string;
/** Of the running test. */
export let catalog: Catalog;
/** The one that was started last. */
export let queue: ConversionQueue;
/** Digests in the order in which their conversions began. */
export let begun: Digest[];

/** Gives each test of a file an empty catalog, whose clock the test moves on by {@link tick}, and ends its queue. */
export function useConversionQueue(): void {
  beforeEach(async () => {
    vi.useFakeTimers({ toFake: ['Date', 'setTimeout', 'clearTimeout', 'setInterval', 'clearInterval'] });
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
}

/** As a process finds it that starts after another one has died. */
export async function reopenCatalog(): Promise<void> {
  await catalog.close();
  catalog = await openCatalog();
}

export function start(
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

export function convertedFrom({ digest }: ConversionRecord) {
  const mediaType = OCI_MANIFEST;
  return { digest: digestOf(`converted ${digest}`), mediaType, sizeBytes: 1, layerBytes: 1, parts: [] };
}

export function served(value: object, mediaType: string): ServedManifest {
  const bytes = Buffer.from(JSON.stringify({ schemaVersion: 2, ...value }));
  return { digest: digestOf(bytes), mediaType, bytes, source: 'cache', warning: null };
}

export function image(name: string, layer: object = {}): ServedManifest {
  const config = { mediaType: OCI_CONFIG, digest: digestOf(name), size: 1 };
  const layers = [{ mediaType: OCI_LAYER_TAR, digest: digestOf(`${name} layer`), size: 1, ...layer }];
  return served({ config, layers }, OCI_MANIFEST);
}

export function index(...images: ServedManifest[]): ServedManifest {
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

export const enqueue = ({ digest }: { digest: Digest }) =>
  catalog.conversions.enqueue(
    {
      ...{ ...WHERE, digest, profile: 'p', kind: 'image', platform: null },
      ...{ priority: PRIORITY.pulled, notBeforeMs: 0, policy: 'v1' },
    },
    0,
  );
const openCatalog = () => Catalog.openSqlite(join(directory, 'catalog.db'));
export const recordOf = ({ digest }: { digest: Digest }) => catalog.conversions.get(digest, 'p');
export const stateOf = async (manifest: ServedManifest) => (await recordOf(manifest))?.state ?? null;
export const statesOf = (...manifests: ServedManifest[]) => Promise.all(manifests.map(stateOf));
export const tick = (ms = 0) => vi.advanceTimersByTimeAsync(ms);

/** Conversions that go on until they are told to end. */
export function gated() {
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
