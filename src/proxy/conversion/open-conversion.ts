import type { Logger } from 'pino';
import { conversionPolicy } from '../../convert/conversion-policy.ts';
import { LayerWorkers } from '../../convert/layer-workers.ts';
import { DEFAULT_PROFILE, profileId } from '../../convert/profile.ts';
import type { BlobStore } from '../../store/blob-store.ts';
import type { Catalog } from '../../store/catalog.ts';
import type { Access } from '../access/access.ts';
import { holdings } from '../access/holdings.ts';
import type { ProxyConfig } from '../config.ts';
import type { Blobs } from '../content/blobs.ts';
import type { Manifests } from '../content/manifests.ts';
import type { Opened } from '../opened.ts';
import type { Metrics } from '../operators/metrics.ts';
import { ChainLeases } from './chain-leases.ts';
import { ConversionNews } from './conversion-news.ts';
import { ConversionQueue } from './conversion-queue.ts';
import { ConversionSelection } from './conversion-selection.ts';
import { ConvertedImages } from './converted.ts';
import { imageConverter } from './image-converter.ts';
import { withdrawUnlessKept } from './made-images.ts';
import { meteredConverter } from './metered-converter.ts';

/** Pulls go before conversions. */
const CONVERSION_NICENESS = 10;
/** How soon a replica sees what another one has queued. */
const SHARED_QUEUE_POLL_MS = 3_000;

/** The conversion of what is pulled. The queue does not work before it is started. */
export interface OpenConversion {
  readonly profile: string;
  readonly queue: ConversionQueue;
  readonly images: ConvertedImages;
  readonly news: ConversionNews;
}

/** What it opens is added to `opened`. The queue has to be stopped before. */
export function openConversion(
  { conversion, catalog: { kind: catalogKind } }: ProxyConfig,
  parts: {
    readonly store: BlobStore;
    readonly catalog: Catalog;
    readonly access: Access;
    readonly manifests: Manifests;
    readonly blobs: Blobs;
    readonly metrics: Metrics;
    /** Ends all questions to upstreams. */
    readonly signal: AbortSignal;
    readonly log: Logger;
  },
  opened: Opened,
): OpenConversion {
  const { store, catalog, access, manifests, blobs, metrics, signal, log } = parts;
  const { algorithm, level, blockSize, limits, leaseMs, downloads } = conversion;
  const workers = new LayerWorkers(conversion.concurrency, { niceness: CONVERSION_NICENESS });
  opened.add(() => workers.close());
  const conversionProfile = { ...DEFAULT_PROFILE, algorithm, level, blockSize };
  const profile = profileId(conversionProfile);
  const { leases } = catalog;
  const chains = new ChainLeases({ leases, profile, leaseMs, log });
  const context = { store, workers, limits, profile: conversionProfile, chains };
  const { minImageBytes } = conversion;
  const sources = { access, manifests, blobs, catalog };
  const converter = imageConverter({ ...sources, context, downloads, minImageBytes });
  const news = new ConversionNews();
  const queue = new ConversionQueue({
    catalog,
    profile,
    policy: conversionPolicy(limits),
    selection: new ConversionSelection(conversion),
    indexImages: limits.indexImages,
    convert: meteredConverter(converter, metrics),
    onDone: (made) => withdrawUnlessKept({ store, catalog }, made),
    images: conversion.images,
    leaseMs,
    pollMs: catalogKind === 'sqlite' ? null : SHARED_QUEUE_POLL_MS,
    news,
    log,
  });
  const held = access.isPerRepository ? holdings({ manifests, blobs, signal }) : null;
  const images = new ConvertedImages({ catalog, manifests, queue, profile, holdings: held });
  return { profile, queue, images, news };
}
