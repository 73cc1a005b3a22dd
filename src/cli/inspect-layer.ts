import { ErofsReader } from '../format/erofs-reader.ts';
import type { SpaceUse } from '../format/erofs-space.ts';
import { FormatError } from '../format/errors.ts';
import { FileSource } from '../format/file-source.ts';
import { LsmtLayer } from '../format/lsmt-layer.ts';
import { NO_PARENT_UUID } from '../format/lsmt-writer.ts';
import { MergedDevice } from '../format/merged-device.ts';
import { openLayerBlob } from '../format/overlaybd-tar.ts';
import { SECTOR_BYTES } from '../format/segments.ts';
import { ZFileReader } from '../format/zfile-reader.ts';
import { formatBytes, formatFields } from './output.ts';
import { formatSpace, spaceOf } from './space.ts';

/** What a layer blob turns out to hold. Sizes in bytes. */
export interface LayerReport {
  readonly kind: 'layer';
  readonly blobBytes: number;
  readonly zfile: {
    readonly algorithm: string;
    readonly blockBytes: number;
    readonly blocks: number;
    readonly checksums: boolean;
    readonly originalBytes: number;
  } | null;
  readonly lsmt: {
    readonly uuid: string;
    readonly parentUuid: string | null;
    readonly deviceBytes: number;
    readonly segments: number;
    readonly dataBytes: number;
    readonly zeroedBytes: number;
  };
  /** Of the device as this layer leaves it; null if its start lies in a layer below or is something else. */
  readonly erofs: { readonly uuid: string; readonly blocks: number; readonly inodes: number } | null;
  /** What the file system takes; null for a layer on others, which shows it only together with them. */
  readonly space: SpaceUse | null;
}

/** Reads a layer blob in a file, wrapped in tar or not, compressed or not. Throws FormatError, SourceError. */
export async function inspectLayer(path: string, signal: AbortSignal): Promise<LayerReport> {
  const file = FileSource.open(path);
  try {
    const content = await openLayerBlob(file, signal);
    const layer = await LsmtLayer.open(content, signal);
    const { uuid, parentUuid, virtualSize, segments } = layer;
    const sum = { data: 0, zeroed: 0 };
    for (let i = 0; i < segments.count; i++) {
      sum[segments.zeroed[i] === 1 ? 'zeroed' : 'data'] += segments.length[i]! * SECTOR_BYTES;
    }
    const device = MergedDevice.open([layer]);
    const isBottom = parentUuid === NO_PARENT_UUID;
    return {
      kind: 'layer',
      blobBytes: file.size,
      zfile: content instanceof ZFileReader ? zfileReport(content) : null,
      lsmt: {
        uuid,
        parentUuid: isBottom ? null : parentUuid,
        deviceBytes: virtualSize,
        segments: segments.count,
        dataBytes: sum.data,
        zeroedBytes: sum.zeroed,
      },
      erofs: await erofsReport(device, signal),
      space: isBottom ? await spaceOf(device, signal) : null,
    };
  } finally {
    await file.close();
  }
}

/** The report as lines for people. */
export function formatLayer({ blobBytes, zfile, lsmt, erofs, space }: LayerReport): string {
  return formatFields([
    ['blob', formatBytes(blobBytes)],
    [
      'zfile',
      zfile === null
        ? 'not compressed'
        : `${zfile.algorithm}, ${zfile.blocks} blocks of ${zfile.blockBytes / 1024} KiB, ${formatBytes(zfile.originalBytes)} uncompressed, ${zfile.checksums ? 'with' : 'without'} checksums`,
    ],
    ['uuid', lsmt.uuid],
    ['parent uuid', lsmt.parentUuid ?? 'none'],
    ['device', formatBytes(lsmt.deviceBytes)],
    [
      'segments',
      `${lsmt.segments}: ${formatBytes(lsmt.dataBytes)} of data, ${formatBytes(lsmt.zeroedBytes)} zeroed`,
    ],
    [
      'file system',
      erofs === null
        ? 'not known from this layer alone'
        : `erofs, ${erofs.inodes} inodes, ${erofs.blocks} blocks`,
    ],
    ...(space === null ? [] : [['space', formatSpace(space)] as const]),
  ]);
}

function zfileReport({ header, size }: ZFileReader): LayerReport['zfile'] {
  return {
    algorithm: header.algorithm,
    blockBytes: header.blockSize,
    blocks: Math.ceil(size / header.blockSize),
    checksums: header.verify,
    originalBytes: size,
  };
}

async function erofsReport(device: MergedDevice, signal: AbortSignal): Promise<LayerReport['erofs']> {
  const reader = await ErofsReader.open(device, signal).catch((error: unknown) => {
    // Another file system, or none: the layer is inspected all the same.
    if (error instanceof FormatError) return null;
    throw error;
  });
  if (reader === null) return null;
  const { uuid, blocks, inodes } = reader.superblock;
  return { uuid: uuid.toString('hex'), blocks, inodes };
}
