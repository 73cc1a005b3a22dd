import type { Digest } from '../oci/digest.ts';
import { ImageLayout } from '../oci/image-layout.ts';
import { type LayoutReference, parseLayoutReference } from '../oci/layout-reference.ts';
import { type Descriptor, type Manifest, parseManifest } from '../oci/manifest.ts';
import { parseReference } from '../oci/reference.ts';
import { registryUrl } from '../oci/registry-url.ts';
import type { LocalFile } from '../store/blob-store.ts';

/** A manifest with the descriptor that leads to it. */
export interface FoundManifest {
  readonly descriptor: Descriptor;
  readonly manifest: Manifest;
}

/** An image somewhere, found by what the user wrote: in a registry or in an OCI image layout. */
export interface ImageOrigin {
  /** What the reference names: an image or an index. */
  readonly root: FoundManifest;
  /** Its blobs are files of this machine. */
  readonly isLocal: boolean;
  manifest(descriptor: Descriptor, signal: AbortSignal): Promise<FoundManifest>;
  /** A small blob (config, chunk table), digest checked. */
  readBlob(descriptor: Pick<Descriptor, 'digest' | 'size'>, signal: AbortSignal): Promise<Buffer>;
  /** Puts a layer's bytes, digest checked, where `keep` does, or names the file they are in. The caller closes it. */
  layerFile(layer: Descriptor, keep: KeepBlob, signal: AbortSignal): Promise<LocalFile>;
  close(): Promise<void>;
}

/** Stores a blob from a stream under its digest, verified, and says in which file it is. */
export type KeepBlob = (
  blob: { readonly digest: Digest; readonly size: number },
  body: AsyncIterable<Buffer>,
) => Promise<LocalFile>;

export interface OriginOptions {
  /** Speak http to the registry; registries on loopback are spoken to by http anyway. */
  readonly plainHttp: boolean;
  readonly signal: AbortSignal;
}

export const IMAGE_ARGUMENT =
  '[HOST[:PORT]/]REPOSITORY[:TAG][@DIGEST], or oci:DIRECTORY[:TAG] for an OCI image layout';

/** Finds the image that `text` names. Throws OciError or RegistryError that says what is not there. */
export async function openImage(text: string, options: OriginOptions): Promise<ImageOrigin> {
  const layout = parseLayoutReference(text);
  return layout === null ? openInRegistry(text, options) : openInLayout(layout);
}

/** What an index lists, in its order; anything else is its own list. */
export async function entriesOf(origin: ImageOrigin, signal: AbortSignal): Promise<FoundManifest[]> {
  const { manifest } = origin.root;
  if (manifest.kind !== 'index') return [origin.root];
  const found: FoundManifest[] = [];
  for (const descriptor of manifest.manifests) found.push(await origin.manifest(descriptor, signal));
  return found;
}

async function openInLayout({ directory, tag }: LayoutReference): Promise<ImageOrigin> {
  const layout = await ImageLayout.open(directory);
  const find = async (descriptor: Descriptor): Promise<FoundManifest> => ({
    descriptor,
    manifest: parseManifest(await layout.readBlob(descriptor.digest), descriptor.mediaType),
  });
  return {
    isLocal: true,
    root: await find((await layout.resolve(tag ?? undefined)).descriptor),
    manifest: find,
    readBlob: ({ digest }) => layout.readBlob(digest),
    // Nobody removes what stands in a layout.
    layerFile: async ({ digest }) => ({ path: layout.blobPath(digest), close: async () => {} }),
    close: async () => {},
  };
}

async function openInRegistry(text: string, { plainHttp, signal }: OriginOptions): Promise<ImageOrigin> {
  const { registry, repository, tag, digest } = parseReference(text);
  // Not needed for layouts, and a quarter of the time that the command takes to start.
  const { RegistryClient } = await import('../oci/registry-client.ts');
  const client = new RegistryClient({ baseUrl: registryUrl(registry, plainHttp ? { plainHttp } : {}) });
  const find = async (reference: string, wait: AbortSignal): Promise<FoundManifest> => {
    const { digest, mediaType, bytes } = await client.manifest(repository, reference, { signal: wait });
    return {
      descriptor: { digest, mediaType, size: bytes.length },
      manifest: parseManifest(bytes, mediaType),
    };
  };
  try {
    return {
      isLocal: false,
      root: await find(digest ?? tag ?? 'latest', signal),
      manifest: async (descriptor, wait) => ({ ...(await find(descriptor.digest, wait)), descriptor }),
      readBlob: ({ digest, size }, wait) =>
        client.readBlob(repository, digest, { maxBytes: size, signal: wait }),
      layerFile: async (layer, keep, wait) =>
        keep(layer, (await client.blob(repository, layer.digest, { signal: wait })).body),
      close: () => client.close(),
    };
  } catch (error) {
    await client.close();
    throw error;
  }
}
