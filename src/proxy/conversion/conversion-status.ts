import type { Digest } from '../../oci/digest.ts';
import {
  CONVERSION_STATES,
  type ConversionProgress,
  type ConversionRecord,
  type ConversionTable,
  LEFT_CODE,
} from '../../store/conversion-table.ts';

export const STATUS_STATES = [...CONVERSION_STATES, 'left'] as const;
export type StatusState = (typeof STATUS_STATES)[number];

/** Not converted because nobody wants it to be. */
const LEFT_CODES: ReadonlySet<string | null> = new Set([LEFT_CODE, 'ERR_PROXY_CONVERSION_SMALL']);

/** A conversion as `/dadi/v1/conversions` tells it. */
export interface ConversionStatus extends ConversionProgress {
  /** Of the original manifest. */
  readonly digest: Digest;
  readonly profile: string;
  /** `left`: as it is, because nobody wants it converted. */
  readonly state: StatusState;
  readonly upstream: string;
  readonly repository: string;
  /** `linux/arm64`, when an index named it. */
  readonly platform: string | null;
  /** `size` of the manifest and `layerBytes` of all layers, in bytes. */
  readonly converted: {
    readonly digest: Digest;
    readonly mediaType: string;
    readonly size: number;
    readonly layerBytes: number;
  } | null;
  /** Of the last attempt, so far if it runs; null before the first one. */
  readonly durationMs: number | null;
  /** How many conversions are to begin before this one; null if it does not wait. */
  readonly ahead: number | null;
  /** Why it failed, if it did, the last time. */
  readonly error: string | null;
  readonly errorCode: string | null;
  /** How often it failed. */
  readonly attempts: number;
  /** ISO 8601: when a failed one is tried again by itself; null if only when somebody asks for it. */
  readonly nextAttemptAt: string | null;
  /** ISO 8601. */
  readonly createdAt: string;
  readonly updatedAt: string;
}

/**
 * An index's progress is that of its images; it is running when one of them is.
 * @param ahead how many wait before it, if the caller knows
 */
export async function conversionStatus(
  record: ConversionRecord,
  conversions: Pick<ConversionTable, 'children' | 'ahead'>,
  ahead?: number,
): Promise<ConversionStatus> {
  const { digest, profile, upstream, repository, platform, converted, error, errorCode, attempts } = record;
  const images = record.kind === 'index' ? await conversions.children(digest, profile) : [];
  const isLeft = record.state === 'failed' && LEFT_CODES.has(errorCode);
  const begun = record.state === 'queued' && images.some((image) => image.state !== 'queued');
  return {
    digest,
    profile,
    state: begun ? 'running' : isLeft ? 'left' : record.state,
    upstream,
    repository,
    platform,
    ...(record.kind === 'index' ? sum(images) : record.progress),
    converted:
      converted === null
        ? null
        : {
            digest: converted.digest,
            mediaType: converted.mediaType,
            size: converted.sizeBytes,
            layerBytes: record.kind === 'index' ? layerBytesOf(images) : converted.layerBytes,
          },
    durationMs: durationOf(record),
    ahead: record.state === 'queued' && !begun ? (ahead ?? (await conversions.ahead(record))) : null,
    error,
    errorCode,
    attempts,
    nextAttemptAt:
      record.state === 'failed' && record.nextAttemptMs !== null
        ? new Date(record.nextAttemptMs).toISOString()
        : null,
    createdAt: new Date(record.createdAtMs).toISOString(),
    updatedAt: new Date(record.updatedAtMs).toISOString(),
  };
}

function layerBytesOf(images: readonly ConversionRecord[]): number {
  return images.reduce((total, { converted }) => total + (converted?.layerBytes ?? 0), 0);
}

function durationOf({ state, startedAtMs, updatedAtMs }: ConversionRecord): number | null {
  if (startedAtMs === null || state === 'queued') return null;
  return (state === 'running' ? Date.now() : updatedAtMs) - startedAtMs;
}

function sum(images: readonly ConversionRecord[]): ConversionProgress {
  const total = { layersDone: 0, layersTotal: 0, bytesDone: 0, bytesTotal: 0 };
  for (const { progress } of images) {
    total.layersDone += progress.layersDone;
    total.layersTotal += progress.layersTotal;
    total.bytesDone += progress.bytesDone;
    total.bytesTotal += progress.bytesTotal;
  }
  return total;
}
