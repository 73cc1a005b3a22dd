import type { ByteSource } from '../../format/byte-source.ts';
import { FileSource } from '../../format/file-source.ts';
import { OVERLAYBD_ARTIFACT_TYPE } from '../../oci/annotations.ts';
import { type Digest, shortDigest } from '../../oci/digest.ts';
import { ImageLayout } from '../../oci/image-layout.ts';
import type { LayoutReference } from '../../oci/layout-reference.ts';
import { type Descriptor, type ImageManifest, parseManifest } from '../../oci/manifest.ts';
import { selectPlatform } from '../../oci/platform.ts';
import { ClientError } from '../errors.ts';
import { type ConvertedImage, convertedLayers, type ImageLayer, isConverted } from './image.ts';

/**
 * Opens a converted image in an OCI image layout, or the converted form there of an image in it. Its blobs are
 * read where they are: the layout is trusted as far as ZFile checksums do not see more.
 * @throws ClientError ERR_IMAGE_NOT_CONVERTED, ERR_IMAGE_UNSUPPORTED, ERR_IMAGE_INVALID; OciError
 */
export async function openLayoutImage(reference: string, where: LayoutReference): Promise<ConvertedImage> {
  const layout = await ImageLayout.open(where.directory);
  const { descriptor } = await layout.resolve(where.tag ?? undefined);
  const named = await readImage(layout, descriptor);
  const { digest, manifest } = isConverted(named.manifest)
    ? named
    : await findConverted(layout, reference, named.digest);
  return new LayoutImage(layout, reference, digest, await convertedLayers(manifest, noTable));
}

async function noTable(_layer: unknown, where: string): Promise<Digest> {
  throw new ClientError(
    'ERR_IMAGE_UNSUPPORTED',
    `${where} has no chunk table: other tools made it; push the image to a registry and read it through a dadi proxy, which makes the tables`,
  );
}

interface Found {
  readonly digest: Digest;
  readonly manifest: ImageManifest;
}

async function readImage(layout: ImageLayout, { digest, mediaType }: Descriptor): Promise<Found> {
  const manifest = parseManifest(await layout.readBlob(digest), mediaType);
  if (manifest.kind === 'index') return readImage(layout, selectPlatform(manifest));
  if (manifest.kind === 'image') return { digest, manifest };
  throw new ClientError('ERR_IMAGE_UNSUPPORTED', `${digest} is an artifact, not an image`);
}

/** A layout has no referrers API: its index names its referrers too. */
async function findConverted(layout: ImageLayout, reference: string, original: Digest): Promise<Found> {
  for (const { descriptor } of await layout.list()) {
    if (descriptor.artifactType !== undefined && descriptor.artifactType !== OVERLAYBD_ARTIFACT_TYPE)
      continue;
    const found = await readImage(layout, descriptor).catch(() => null);
    if (found !== null && isConverted(found.manifest) && found.manifest.subject?.digest === original)
      return found;
  }
  throw new ClientError(
    'ERR_IMAGE_NOT_CONVERTED',
    `${reference} is not a converted image, and the layout holds no converted form of it: see "dadi convert"`,
  );
}

class LayoutImage implements ConvertedImage {
  readonly reference: string;
  readonly manifestDigest: Digest;
  readonly layers: readonly ImageLayer[];
  readonly #layout: ImageLayout;

  constructor(layout: ImageLayout, reference: string, manifestDigest: Digest, layers: readonly ImageLayer[]) {
    this.#layout = layout;
    this.reference = reference;
    this.manifestDigest = manifestDigest;
    this.layers = layers;
  }

  async openLayer(layer: ImageLayer): Promise<ByteSource> {
    const source = FileSource.open(this.#layout.blobPath(layer.digest));
    if (source.size === layer.sizeBytes) return source;
    await source.close();
    throw new ClientError(
      'ERR_IMAGE_INVALID',
      `layer ${shortDigest(layer.digest)} has ${source.size} bytes, the manifest says ${layer.sizeBytes}`,
    );
  }

  async close(): Promise<void> {}
}
