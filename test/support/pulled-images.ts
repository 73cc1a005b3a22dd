/** What real clients have of an image that they pulled, in one form for all of them. */
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { chainIds } from '../../src/oci/chain-id.ts';
import { type Digest, digestOf } from '../../src/oci/digest.ts';
import { type ClientImage, RANDOM_FILE } from './client-images.ts';
import type { Containerd } from './containerd.ts';
import type { ContainersTools } from './containers-tools.ts';
import type { Dockerd } from './dockerd.ts';
import type { MadeManifest } from './made-image.ts';

export interface PulledImage {
  /** Of the manifest. */
  readonly digest: string;
  /** Of the configuration, by which all clients name images. */
  readonly id: string;
  readonly diffIds: readonly string[];
  /** SHA-256 of the file {@link RANDOM_FILE} as it is unpacked. */
  readonly content: Digest;
}

/** What a client should have of an image. */
export function pulled({ descriptor, blobs, content }: ClientImage): PulledImage {
  const [config] = blobs;
  if (config === undefined) throw new TypeError('an image without a configuration');
  return { digest: descriptor.digest, id: digestOf(config), diffIds: diffIdsOf(config), content };
}

/** `name` is one that the daemon's mirror serves. */
export async function pullWithDocker(daemon: Dockerd, name: string): Promise<PulledImage> {
  const said = await daemon.docker('pull', name);
  const [image] = JSON.parse(await daemon.docker('image', 'inspect', name));
  const container = await daemon.docker('create', '--network', 'none', name);
  const copy = join(daemon.directory, 'copied');
  await daemon.docker('cp', `${container}:/${RANDOM_FILE}`, copy);
  await daemon.docker('rm', container);
  return {
    digest: /^Digest: (.*)$/m.exec(said)?.[1] ?? '',
    id: image.Id,
    diffIds: image.RootFS.Layers,
    content: digestOf(readFileSync(copy)),
  };
}

/** Afterwards podman does not have it any more. */
export async function pullWithPodman(
  tools: ContainersTools,
  name: string,
  ...options: string[]
): Promise<PulledImage> {
  await tools.podman('pull', '--quiet', ...options, name);
  const [image] = JSON.parse(await tools.podman('image', 'inspect', name));
  const root = await tools.podman('image', 'mount', image.Id);
  const content = digestOf(readFileSync(join(root, RANDOM_FILE)));
  await tools.podman('image', 'unmount', image.Id);
  await tools.podman('rmi', '--force', image.Id);
  return { digest: image.Digest, id: `sha256:${image.Id}`, diffIds: image.RootFS.Layers, content };
}

/** Over http. Afterwards buildah does not have it any more. */
export async function pullWithBuildah(tools: ContainersTools, name: string): Promise<PulledImage> {
  const container = await tools.buildah('from', '--quiet', '--tls-verify=false', name);
  const image = JSON.parse(await tools.buildah('inspect', container));
  const root = await tools.buildah('mount', container);
  const content = digestOf(readFileSync(join(root, RANDOM_FILE)));
  await tools.buildah('rm', container);
  await tools.buildah('rmi', '--force', image.FromImageID);
  const { FromImageDigest: digest, FromImageID: id, OCIv1 } = image;
  return { digest, id: `sha256:${id}`, diffIds: OCIv1.rootfs.diff_ids, content };
}

/** By way of the hosts that a directory of hosts.toml files names, into a namespace of its own. */
export async function pullWithContainerd(
  containerd: Containerd,
  hostsDirectory: string,
  name: string,
  namespace: string,
): Promise<PulledImage> {
  await containerd.pullByHosts(hostsDirectory, name, { namespace });
  return pulledByContainerd(containerd, name, namespace);
}

export async function pulledByContainerd(
  containerd: Containerd,
  name: string,
  namespace: string,
): Promise<PulledImage> {
  const digest = await containerd.digestOf(namespace, name);
  const manifest = JSON.parse((await containerd.content(namespace, digest)).toString());
  const id: string = manifest.config.digest;
  const diffIds = diffIdsOf(await containerd.content(namespace, id));
  const content = await containerd.withPulled(namespace, topOf(diffIds), async (root) =>
    digestOf(readFileSync(join(root, RANDOM_FILE))),
  );
  return { digest, id, diffIds, content };
}

/** The name of all its layers together. */
export function chainIdOf({ blobs: [config] }: MadeManifest): Digest {
  if (config === undefined) throw new TypeError('an image without a configuration');
  return topOf(diffIdsOf(config));
}

/** By name, the digests of the files that skopeo writes for all that belongs to a manifest. Over http. */
export async function copyWithSkopeo(tools: ContainersTools, name: string): Promise<Record<string, Digest>> {
  const parent = join(tools.directory, 'copies');
  mkdirSync(parent, { recursive: true });
  const copy = mkdtempSync(join(parent, 'copy-'));
  const flags = ['--all', '--preserve-digests', '--src-tls-verify=false'];
  await tools.skopeo('copy', ...flags, `docker://${name}`, `dir:${copy}`);
  const files = readdirSync(copy).filter((file) => file !== 'version');
  const digests = files.map((file) => [file, digestOf(readFileSync(join(copy, file)))]);
  rmSync(copy, { recursive: true });
  return Object.fromEntries(digests);
}

/** What {@link copyWithSkopeo} should give. */
export function copied(made: MadeManifest): Record<string, Digest> {
  const blobs = [made, ...made.manifests].flatMap((each) => each.blobs);
  return Object.fromEntries([
    ['manifest.json', digestOf(made.bytes)],
    ...made.manifests.map(({ bytes }) => [`${hex(bytes)}.manifest.json`, digestOf(bytes)]),
    ...blobs.map((blob) => [hex(blob), digestOf(blob)]),
  ]);
}

function hex(bytes: Buffer): string {
  return digestOf(bytes).slice('sha256:'.length);
}

function diffIdsOf(config: Buffer): Digest[] {
  return JSON.parse(config.toString()).rootfs.diff_ids;
}

function topOf(diffIds: readonly Digest[]): Digest {
  const top = chainIds(diffIds).at(-1);
  if (top === undefined) throw new TypeError('an image without layers');
  return top;
}
