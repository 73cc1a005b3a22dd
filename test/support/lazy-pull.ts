/** A pull of a converted image, as containerd's CRI service asks a snapshotter for it: no layer is downloaded. */
import { status } from '@grpc/grpc-js';
import type { Labels, Mount } from '../../src/client/snapshotter/snapshots-api.ts';
import type { Digest } from '../../src/oci/digest.ts';
import type { SnapshotsClient } from './snapshots-client.ts';

export interface LazyImage {
  /** `reg.example/lib/demo:1` */
  readonly reference: string;
  readonly manifestDigest: Digest;
  /** Bottom first. */
  readonly layers: readonly { readonly digest: Digest; readonly chainId: Digest }[];
}

let pulls = 0;

/**
 * The name of the topmost layer's snapshot, for containers to stand on. Rejects if a layer would have to be downloaded, and
 * with gRPC's error for any other refusal.
 */
export async function pullLazily(
  client: SnapshotsClient,
  image: LazyImage,
  signal?: AbortSignal,
): Promise<string> {
  const pull = ++pulls;
  let parent = '';
  for (const [at, { chainId }] of image.layers.entries()) {
    const isThere = await client
      .prepare(`extract ${pull} ${chainId}`, parent, labelsOf(image, at), signal)
      .then(() => false, rejectsOthers);
    const [found] = isThere ? await client.list(`labels."containerd.io/snapshot.ref"==${chainId}`) : [];
    if (found === undefined)
      throw new Error(`layer ${chainId} is not converted: it would have to be downloaded`);
    parent = found.name;
  }
  return parent;
}

/** The directory where the image's files are, of a container that has nothing of its own below it. */
export function imageDirectory([mount]: readonly Mount[]): string {
  const lower = mount?.options.find((option) => option.startsWith('lowerdir='));
  if (lower === undefined) throw new Error('nothing lies below the container');
  return lower.slice('lowerdir='.length);
}

function rejectsOthers(error: unknown): true {
  if ((error as { code?: unknown }).code === status.ALREADY_EXISTS) return true;
  throw error;
}

function labelsOf({ reference, manifestDigest, layers }: LazyImage, at: number): Labels {
  const { digest, chainId } = layers[at]!;
  return {
    'containerd.io/snapshot.ref': chainId,
    'containerd.io/snapshot/cri.image-ref': reference,
    'containerd.io/snapshot/cri.manifest-digest': manifestDigest,
    'containerd.io/snapshot/cri.layer-digest': digest,
    'containerd.io/snapshot/cri.image-layers': layers
      .slice(at)
      .map((layer) => layer.digest)
      .join(','),
  };
}
