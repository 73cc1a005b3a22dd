/** Images that real clients pull and unpack. */
import { gzipSync, zstdCompressSync } from 'node:zlib';
import { type Digest, digestOf } from '../../src/oci/digest.ts';
import { DOCKER_MANIFEST_LIST, OCI_EMPTY, OCI_INDEX, OCI_MANIFEST } from '../../src/oci/media-types.ts';
import { DOCKER_GZIP, OCI_GZIP, OCI_ZSTD } from './layer-forms.ts';
import {
  describeBytes,
  type MadeLayer,
  type MadeManifest,
  makeImage,
  makeIndex,
  makeManifest,
  pushMade,
} from './made-image.ts';
import { randomBytes } from './random-bytes.ts';
import { type Registry, type RegistryOptions, startRegistry } from './registry.ts';
import { END_BLOCKS, tarMember } from './tar-blocks.ts';

/** One that clients can unpack. */
export interface ClientImage extends MadeManifest {
  /** SHA-256 of {@link RANDOM_FILE}. */
  readonly content: Digest;
}

export interface ClientImageOptions {
  readonly form?: 'oci' | 'docker' | 'oci-zstd';
  readonly architecture?: string;
  /** Of the file `data/random`, which no compressor makes smaller. */
  readonly randomBytes?: number;
}

/** The largest file of the unpacked images. */
export const RANDOM_FILE = 'data/random';

const HISTORY = ['base', 'top'].map((name) => ({ created: '2025-05-20T00:00:00Z', created_by: name }));

/**
 * An image of two layers: files, links and directories below; a file replaced, one removed and a directory hidden
 * above. No two seeds share a layer.
 */
export function clientImage(seed: number, options: ClientImageOptions = {}): ClientImage {
  const { form = 'oci', architecture = 'amd64' } = options;
  const random = randomBytes(options.randomBytes ?? 1_500_000, seed);
  const layers = [baseTar(seed, random), topTar(seed)].map((tar) => layerOfTar(tar, form));
  const config = { architecture, config: { Cmd: ['/bin/true'] }, history: HISTORY };
  return { ...makeImage(layers, { docker: form === 'docker', config }), content: digestOf(random) };
}

/** One image each for amd64 and arm64. */
export function platformsIndex(
  seed: number,
  options: Pick<ClientImageOptions, 'form'> = {},
): MadeManifest & { readonly images: { readonly amd64: ClientImage; readonly arm64: ClientImage } } {
  const [amd64, arm64] = [
    clientImage(seed, { ...options, architecture: 'amd64' }),
    clientImage(seed + 1, { ...options, architecture: 'arm64' }),
  ];
  const entries = Object.entries({ amd64, arm64 }).map(([architecture, made]) => ({
    made,
    more: { platform: { os: 'linux', architecture } },
  }));
  const mediaType = options.form === 'docker' ? DOCKER_MANIFEST_LIST : OCI_INDEX;
  return { ...makeIndex(entries, mediaType), images: { amd64, arm64 } };
}

/** What ORAS makes of two files: an artifactType, and a config of two bytes. */
export function orasArtifact(): MadeManifest {
  const empty = Buffer.from('{}');
  const files = [Buffer.from('{"spdxVersion":"SPDX-2.3"}'), Buffer.from('second')];
  const layers = files.map((bytes, at) => ({
    ...describeBytes(bytes, 'application/spdx+json'),
    annotations: { 'org.opencontainers.image.title': `file-${at}.json` },
  }));
  const config = { ...describeBytes(empty, OCI_EMPTY), data: empty.toString('base64') };
  const body = { artifactType: 'application/vnd.example.sbom', config, layers };
  return makeManifest(OCI_MANIFEST, body, [empty, ...files]);
}

/** A registry that holds these images, by `repository:tag`, before it asks anybody who they are. */
export async function startFilledRegistry(
  options: RegistryOptions,
  images: Readonly<Record<string, MadeManifest>>,
): Promise<Registry> {
  const open = await startRegistry({ dir: options.dir });
  try {
    for (const [name, made] of Object.entries(images)) {
      const [repository = '', tag = ''] = name.split(':');
      await pushMade(open.baseUrl, repository, tag, made);
    }
  } finally {
    await open.stop();
  }
  return startRegistry(options);
}

function baseTar(seed: number, random: Buffer): Buffer {
  return Buffer.concat([
    tarMember({ path: 'bin/', type: '5', mode: 0o755 }),
    tarMember({ path: 'bin/tool', mode: 0o4755 }, '#!/bin/false\n'),
    tarMember({ path: 'bin/same', type: '1', linkTarget: 'bin/tool' }),
    tarMember({ path: 'bin/sh', type: '2', linkTarget: 'tool' }),
    tarMember({ path: 'etc/', type: '5', mode: 0o755 }),
    tarMember({ path: 'etc/name', uid: 7, gid: 8 }, `base ${seed}`),
    tarMember({ path: 'etc/old' }, 'to be removed'),
    tarMember({ path: 'etc/d/', type: '5', mode: 0o750 }),
    tarMember({ path: 'etc/d/hidden' }, 'to be hidden'),
    tarMember({ path: 'data/', type: '5', mode: 0o755 }),
    tarMember({ path: RANDOM_FILE }, random),
    END_BLOCKS,
  ]);
}

function topTar(seed: number): Buffer {
  return Buffer.concat([
    tarMember({ path: 'etc/', type: '5', mode: 0o755 }),
    tarMember({ path: 'etc/name', uid: 7, gid: 8 }, `top ${seed}`),
    tarMember({ path: 'etc/.wh.old' }),
    tarMember({ path: 'etc/d/', type: '5', mode: 0o750 }),
    tarMember({ path: 'etc/d/.wh..wh..opq' }),
    tarMember({ path: 'etc/d/new' }, 'seen'),
    END_BLOCKS,
  ]);
}

function layerOfTar(tar: Buffer, form: NonNullable<ClientImageOptions['form']>): MadeLayer {
  const bytes = new Uint8Array(tar);
  const diffId = digestOf(tar);
  switch (form) {
    case 'oci':
      return { mediaType: OCI_GZIP, bytes: gzipSync(bytes), diffId };
    case 'docker':
      return { mediaType: DOCKER_GZIP, bytes: gzipSync(bytes), diffId };
    case 'oci-zstd':
      return { mediaType: OCI_ZSTD, bytes: zstdCompressSync(bytes), diffId };
  }
}
