import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { run } from './processes.ts';
import type { Registry } from './registry.ts';

/** The time that all images of the tests carry, so that their digests do not change. */
const CREATED = '2025-05-20T00:00:00Z';

/** An image in an OCI image layout. */
export interface LayoutImage {
  /** The layout's directory. */
  readonly layout: string;
  readonly tag: string;
}

/**
 * Makes an image of layer archives (uncompressed, the lowest first) in the layout `oci` under `dir`, which may hold
 * other images already. Layers are compressed with gzip. Needs `umoci`.
 */
export async function buildImage(dir: string, tag: string, layers: readonly string[]): Promise<LayoutImage> {
  const layout = join(dir, 'oci');
  const image = ['--image', `${layout}:${tag}`];
  await run('sh', ['-c', 'test -e "$1" || umoci init --layout "$1"', 'sh', layout]);
  await run('umoci', ['new', ...image]);
  const platform = ['--architecture', 'amd64', '--os', 'linux'];
  await run('umoci', [
    'config',
    ...image,
    '--no-history',
    '--created',
    CREATED,
    ...platform,
    '--config.cmd',
    '/bin/sh',
  ]);
  for (const layer of layers) {
    await run('umoci', ['raw', 'add-layer', ...image, '--history.created', CREATED, layer]);
  }
  return { layout, tag };
}

/** Pushes an image to `repository:tag` of a registry. Needs `skopeo`. */
export async function pushImage(
  image: LayoutImage,
  registry: Registry,
  repositoryAndTag: string,
): Promise<void> {
  const source = `oci:${image.layout}:${image.tag}`;
  const destination = `docker://${registry.host}/${repositoryAndTag}`;
  await run('skopeo', ['--insecure-policy', 'copy', ...skopeoAccess(registry, 'dest'), source, destination]);
}

/** Pulls `repository:tag` of a registry into a new layout at `dir`. Needs `skopeo`. */
export async function pullImage(
  registry: Registry,
  repositoryAndTag: string,
  dir: string,
): Promise<LayoutImage> {
  const source = `docker://${registry.host}/${repositoryAndTag}`;
  const image = { layout: dir, tag: 'pulled' };
  const destination = `oci:${image.layout}:${image.tag}`;
  await run('skopeo', ['--insecure-policy', 'copy', ...skopeoAccess(registry, 'src'), source, destination]);
  return image;
}

/**
 * Unpacks an image into the new directory `dir` and gives its path. Needs `umoci` and, for owners and devices, `root`.
 * Without a bundle around it: umoci would read all of it once more to say what is in it.
 */
export async function unpackWithUmoci(image: LayoutImage, dir: string): Promise<string> {
  mkdirSync(join(dir, '..'), { recursive: true });
  await run('umoci', ['raw', 'unpack', '--image', `${image.layout}:${image.tag}`, dir]);
  return dir;
}

function skopeoAccess(registry: Registry, side: 'src' | 'dest'): string[] {
  const { credentials, certificatesDir } = registry;
  return [
    certificatesDir === null ? `--${side}-tls-verify=false` : `--${side}-cert-dir=${certificatesDir}`,
    credentials === null
      ? `--${side}-no-creds`
      : `--${side}-creds=${credentials.username}:${credentials.password}`,
  ];
}
