import { decodeChunkTable } from '../format/chunk-table.ts';
import type { SpaceUse } from '../format/erofs-space.ts';
import { FileSource } from '../format/file-source.ts';
import { LsmtLayer } from '../format/lsmt-layer.ts';
import { MergedDevice } from '../format/merged-device.ts';
import { openLayerBlob } from '../format/overlaybd-tar.ts';
import {
  CHUNK_TABLE_DIGEST_ANNOTATION,
  OVERLAYBD_VERSION_ANNOTATION,
  PROFILE_ANNOTATION,
} from '../oci/annotations.ts';
import { parseDigest, shortDigest } from '../oci/digest.ts';
import {
  type Descriptor,
  type ImageManifest,
  type IndexManifest,
  parseImageConfig,
} from '../oci/manifest.ts';
import { formatPlatform, isAttestation } from '../oci/platform.ts';
import type { FoundManifest, ImageOrigin } from './image-origin.ts';
import { formatBytes, formatFields, formatTable } from './output.ts';
import { formatSpace, spaceOf } from './space.ts';

interface LayerSummary {
  readonly digest: string;
  readonly mediaType: string;
  readonly size: number;
  /** Of converted layers: how many chunks they are fetched in. */
  readonly chunks: number | null;
}

interface EntrySummary {
  readonly digest: string;
  readonly mediaType: string;
  readonly size: number;
  readonly platform: string | null;
  readonly role: 'image' | 'attestation';
}

interface ReportBase {
  readonly digest: string;
  readonly mediaType: string;
  /** Digest of what this was converted from, or is otherwise about. */
  readonly subject: string | null;
  readonly profile: string | null;
}

/** What a reference names. Sizes in bytes. */
export type ImageReport = ReportBase &
  (
    | { readonly kind: 'artifact'; readonly layers: readonly LayerSummary[] }
    | {
        readonly kind: 'image';
        readonly form: 'original' | 'overlaybd';
        readonly platform: string;
        readonly layers: readonly LayerSummary[];
        /** What the file system of a converted image on this machine takes. */
        readonly space: SpaceUse | null;
      }
    | { readonly kind: 'index'; readonly manifests: readonly EntrySummary[] }
  );

export async function inspectImage(origin: ImageOrigin, signal: AbortSignal): Promise<ImageReport> {
  const { manifest } = origin.root;
  const base = reportBase(origin.root);
  if (manifest.kind === 'index') return { ...base, kind: 'index', manifests: entriesOf(manifest) };
  const layers: LayerSummary[] = [];
  for (const layer of manifest.layers) layers.push(await layerSummary(layer, origin, signal));
  if (manifest.kind === 'artifact') return { ...base, kind: 'artifact', layers };
  const config = parseImageConfig(await origin.readBlob(manifest.config, signal));
  const form = formOf(manifest);
  const space = form === 'overlaybd' && origin.isLocal ? await imageSpace(manifest, origin, signal) : null;
  return { ...base, kind: 'image', form, platform: formatPlatform(config), layers, space };
}

/** The report for people. */
export function formatImage(report: ImageReport): string {
  const head = formatFields([
    ['digest', report.digest],
    ['media type', report.mediaType],
    ['kind', report.kind === 'image' ? `image, ${report.form}, ${report.platform}` : report.kind],
    ...(report.subject === null ? [] : [['made from', report.subject] as const]),
    ...(report.profile === null ? [] : [['profile', report.profile] as const]),
    ...(report.kind !== 'image' || report.space === null
      ? []
      : [['space', formatSpace(report.space)] as const]),
  ]);
  const table =
    report.kind === 'index'
      ? formatTable(
          ['DIGEST', 'PLATFORM', 'ROLE', 'MEDIA TYPE'],
          report.manifests.map((entry) => [entry.digest, entry.platform ?? '-', entry.role, entry.mediaType]),
        )
      : formatTable(
          ['LAYER', 'DIGEST', 'SIZE', 'CHUNKS', 'MEDIA TYPE'],
          report.layers.map((layer, index) => [
            String(index + 1),
            shortDigest(parseDigest(layer.digest)),
            formatBytes(layer.size),
            layer.chunks === null ? '-' : String(layer.chunks),
            layer.mediaType,
          ]),
        );
  return `${head}\n\n${table}`;
}

async function imageSpace(
  { layers }: ImageManifest,
  origin: ImageOrigin,
  signal: AbortSignal,
): Promise<SpaceUse | null> {
  const files: FileSource[] = [];
  try {
    const opened: LsmtLayer[] = [];
    for (const layer of layers) {
      const local = await origin.layerFile(layer, () => Promise.reject(new Error('not local')), signal);
      const file = FileSource.open(local.path);
      files.push(file);
      await local.close();
      opened.push(await LsmtLayer.open(await openLayerBlob(file, signal), signal));
    }
    return await spaceOf(MergedDevice.open(opened), signal);
  } finally {
    for (const file of files) await file.close();
  }
}

function reportBase({ descriptor, manifest }: FoundManifest): ReportBase {
  return {
    digest: descriptor.digest,
    mediaType: manifest.mediaType,
    subject: manifest.subject?.digest ?? null,
    profile: manifest.annotations[PROFILE_ANNOTATION] ?? null,
  };
}

function formOf(manifest: ImageManifest): 'original' | 'overlaybd' {
  const isOverlaybd = manifest.layers.some((layer) => layer.annotations?.[OVERLAYBD_VERSION_ANNOTATION]);
  return isOverlaybd ? 'overlaybd' : 'original';
}

function entriesOf(index: IndexManifest): EntrySummary[] {
  return index.manifests.map((entry) => ({
    digest: entry.digest,
    mediaType: entry.mediaType,
    size: entry.size,
    platform: entry.platform === undefined ? null : formatPlatform(entry.platform),
    role: isAttestation(entry) ? 'attestation' : 'image',
  }));
}

async function layerSummary(
  { digest, mediaType, size, annotations }: Descriptor,
  origin: ImageOrigin,
  signal: AbortSignal,
): Promise<LayerSummary> {
  const tableDigest = annotations?.[CHUNK_TABLE_DIGEST_ANNOTATION];
  if (tableDigest === undefined) return { digest, mediaType, size, chunks: null };
  const bytes = await origin.readBlob({ digest: parseDigest(tableDigest), size: size }, signal);
  const { blobSize, chunkSize } = decodeChunkTable(bytes);
  return { digest, mediaType, size, chunks: Math.ceil(blobSize / chunkSize) };
}
