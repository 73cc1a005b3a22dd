import { createHash } from 'node:crypto';
import { DEFAULT_CHUNK_BYTES, encodeChunkTable } from '../../src/format/chunk-table.ts';
import {
  CHUNK_TABLE_DIGEST_ANNOTATION,
  OVERLAYBD_ARTIFACT_TYPE,
  OVERLAYBD_BLOB_DIGEST_ANNOTATION,
  OVERLAYBD_BLOB_SIZE_ANNOTATION,
  OVERLAYBD_VERSION,
  OVERLAYBD_VERSION_ANNOTATION,
} from '../../src/oci/annotations.ts';
import { type Digest, digestOf } from '../../src/oci/digest.ts';
import { ImageLayout } from '../../src/oci/image-layout.ts';
import { type Descriptor, encodeJson } from '../../src/oci/manifest.ts';
import { OCI_CONFIG, OCI_LAYER_TAR, OCI_MANIFEST } from '../../src/oci/media-types.ts';

export interface OverlaybdLayoutOptions {
  readonly chunkBytes?: number;
  /** Leaves out the chunk tables, as stock tools do. */
  readonly stock?: boolean;
}

/**
 * An image layout with an image of these overlaybd layers under the tag `converted`, as the converter describes
 * them, and under `original` one that it says it was converted from.
 */
export async function makeOverlaybdLayout(
  directory: string,
  blobs: readonly Buffer[],
  { chunkBytes = DEFAULT_CHUNK_BYTES, stock = false }: OverlaybdLayoutOptions = {},
): Promise<{ layout: ImageLayout; converted: Digest; original: Digest }> {
  const layout = await ImageLayout.create(directory);
  const layers: Descriptor[] = [];
  for (const blob of blobs) {
    const digest = await layout.putBlob(blob);
    const table = await layout.putBlob(chunkTable(blob, chunkBytes));
    const annotations = {
      [OVERLAYBD_VERSION_ANNOTATION]: OVERLAYBD_VERSION,
      [OVERLAYBD_BLOB_DIGEST_ANNOTATION]: digest,
      [OVERLAYBD_BLOB_SIZE_ANNOTATION]: String(blob.length),
      ...(stock ? {} : { [CHUNK_TABLE_DIGEST_ANNOTATION]: table }),
    };
    layers.push({ mediaType: OCI_LAYER_TAR, digest, size: blob.length, annotations });
  }
  const plain = layers.map(({ mediaType, digest, size }) => ({ mediaType, digest, size }));
  const original = await putImage(layout, plain, {});
  await layout.tag('original', original);
  const converted = await putImage(layout, layers, {
    artifactType: OVERLAYBD_ARTIFACT_TYPE,
    subject: original,
  });
  await layout.tag('converted', converted);
  return { layout, converted: converted.digest, original: original.digest };
}

async function putImage(
  layout: ImageLayout,
  layers: readonly Descriptor[],
  more: object,
): Promise<Descriptor> {
  const config = encodeJson({
    os: 'linux',
    architecture: 'amd64',
    rootfs: { type: 'layers', diff_ids: layers.map((layer) => layer.digest) },
  });
  const bytes = encodeJson({
    schemaVersion: 2,
    mediaType: OCI_MANIFEST,
    config: { mediaType: OCI_CONFIG, digest: await layout.putBlob(config), size: config.length },
    layers,
    ...more,
  });
  await layout.putBlob(bytes);
  return { mediaType: OCI_MANIFEST, digest: digestOf(bytes), size: bytes.length };
}

function chunkTable(blob: Buffer, chunkSize: number): Buffer {
  const digests: Buffer[] = [];
  for (let at = 0; at < blob.length; at += chunkSize) {
    digests.push(
      createHash('sha256')
        .update(blob.subarray(at, at + chunkSize))
        .digest(),
    );
  }
  return encodeChunkTable({ chunkSize, blobSize: blob.length, digests: Buffer.concat(digests) });
}
