import { type Digest, digestOf } from '../../src/oci/digest.ts';
import { ImageLayout } from '../../src/oci/image-layout.ts';
import { type Descriptor, encodeJson } from '../../src/oci/manifest.ts';
import {
  DOCKER_CONFIG,
  DOCKER_MANIFEST,
  OCI_CONFIG,
  OCI_INDEX,
  OCI_MANIFEST,
} from '../../src/oci/media-types.ts';

/** A layer as the image's manifest and config describe it, truly or not. */
export interface MadeLayer {
  readonly mediaType: string;
  readonly bytes: Buffer;
  /** Digest of the tar. */
  readonly diffId: Digest;
  /** More fields of the descriptor, or others. */
  readonly descriptor?: object;
}

/** A manifest of any kind, and what belongs to it. */
export interface MadeManifest {
  readonly bytes: Buffer;
  readonly descriptor: Descriptor;
  readonly blobs: readonly Buffer[];
  /** Of an index: what it lists. */
  readonly manifests: readonly MadeManifest[];
}

export interface ImageShape {
  /** Media types of Docker for manifest and config. OCI's by default. */
  readonly docker?: boolean;
  readonly config?: object | Buffer;
  readonly configDescriptor?: object;
  readonly manifest?: object;
}

/** Makes an image's documents by hand, so that they may say what no builder would. */
export function makeImage(layers: readonly MadeLayer[], shape: ImageShape = {}): MadeManifest {
  const { docker = false, config = {} } = shape;
  const configBytes = Buffer.isBuffer(config)
    ? config
    : encodeJson({
        os: 'linux',
        architecture: 'amd64',
        rootfs: { type: 'layers', diff_ids: layers.map((layer) => layer.diffId) },
        ...config,
      });
  const configType = docker ? DOCKER_CONFIG : OCI_CONFIG;
  return makeManifest(
    docker ? DOCKER_MANIFEST : OCI_MANIFEST,
    {
      config: { ...describeBytes(configBytes, configType), ...shape.configDescriptor },
      layers: layers.map(({ bytes, mediaType, descriptor }) => ({
        ...describeBytes(bytes, mediaType),
        ...descriptor,
      })),
      ...shape.manifest,
    },
    [configBytes, ...new Set(layers.map((layer) => layer.bytes))],
  );
}

/** An index of entries; each may say more about its manifest (`platform`, `annotations`). */
export function makeIndex(
  entries: readonly { readonly made: MadeManifest; readonly more?: object }[],
  mediaType: string = OCI_INDEX,
): MadeManifest {
  const index = { manifests: entries.map(({ made, more }) => ({ ...made.descriptor, ...more })) };
  return {
    ...makeManifest(mediaType, index, []),
    manifests: entries.map(({ made }) => made),
  };
}

/** Any manifest of schema version 2. */
export function makeManifest(mediaType: string, body: object, blobs: readonly Buffer[]): MadeManifest {
  const bytes = encodeJson({ schemaVersion: 2, mediaType, ...body });
  return { bytes, descriptor: describeBytes(bytes, mediaType), blobs, manifests: [] };
}

export function describeBytes(bytes: Buffer, mediaType: string): Descriptor {
  return { mediaType, digest: digestOf(bytes), size: bytes.length };
}

/** Pushes to a registry that lets anybody. Rejects with what the registry says against it. */
export async function pushMade(
  registryUrl: URL,
  repository: string,
  tag: string,
  made: MadeManifest,
): Promise<void> {
  for (const child of made.manifests) await pushMade(registryUrl, repository, child.descriptor.digest, child);
  await Promise.all(made.blobs.map((blob) => pushBlob(registryUrl, repository, blob)));
  const url = new URL(`/v2/${repository}/manifests/${tag}`, registryUrl);
  const headers = { 'content-type': made.descriptor.mediaType };
  await expectOk(await fetch(url, { method: 'PUT', headers, body: new Uint8Array(made.bytes) }));
}

/** Pushes a blob to a registry that lets anybody. */
export async function pushBlob(
  registryUrl: URL,
  repository: string,
  bytes: Buffer,
  digest: Digest = digestOf(bytes),
): Promise<void> {
  const there = await fetch(new URL(`/v2/${repository}/blobs/${digest}`, registryUrl), { method: 'HEAD' });
  if (there.ok) return;
  const begun = await fetch(new URL(`/v2/${repository}/blobs/uploads/`, registryUrl), { method: 'POST' });
  await expectOk(begun);
  const url = new URL(begun.headers.get('location') ?? '', registryUrl);
  url.searchParams.set('digest', digest);
  const headers = { 'content-type': 'application/octet-stream' };
  await expectOk(await fetch(url, { method: 'PUT', headers, body: new Uint8Array(bytes) }));
}

async function expectOk(response: Response): Promise<void> {
  const text = await response.text();
  if (!response.ok) throw new Error(`${response.url}: ${response.status} ${text}`);
}

/** Puts it with all that belongs to it into an image layout. */
export async function putMade(directory: string, tag: string, made: MadeManifest): Promise<void> {
  const layout = await ImageLayout.create(directory);
  await putInto(layout, made);
  await layout.tag(tag, made.descriptor);
}

async function putInto(layout: ImageLayout, made: MadeManifest): Promise<void> {
  for (const child of made.manifests) await putInto(layout, child);
  for (const blob of [...made.blobs, made.bytes]) await layout.putBlob(blob);
}
