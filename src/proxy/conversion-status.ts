import type { Digest } from '../oci/digest.ts';
import type {
  ConversionProgress,
  ConversionRecord,
  ConversionState,
  ConversionTable,
} from '../store/conversion-table.ts';

/** A conversion as `/dadi/v1/conversions` tells it. */
export interface ConversionStatus extends ConversionProgress {
  /** Of the original manifest. */
  readonly digest: Digest;
  readonly profile: string;
  readonly state: ConversionState;
  readonly upstream: string;
  readonly repository: string;
  /** `linux/arm64`, when an index named it. */
  readonly platform: string | null;
  /** `size` in bytes. */
  readonly converted: { readonly digest: Digest; readonly mediaType: string; readonly size: number } | null;
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

/** An index's progress is that of its images; it is running when one of them is. */
export async function conversionStatus(
  record: ConversionRecord,
  conversions: Pick<ConversionTable, 'children'>,
): Promise<ConversionStatus> {
  const { digest, profile, upstream, repository, platform, converted, error, errorCode, attempts } = record;
  const images = record.kind === 'index' ? await conversions.children(digest, profile) : [];
  const begun = record.state === 'queued' && images.some((image) => image.state !== 'queued');
  return {
    digest,
    profile,
    state: begun ? 'running' : record.state,
    upstream,
    repository,
    platform,
    ...(record.kind === 'index' ? sum(images) : record.progress),
    converted:
      converted === null
        ? null
        : { digest: converted.digest, mediaType: converted.mediaType, size: converted.sizeBytes },
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
