/** Images and other things that registries hold, and what is to become of each. */
import { gzipSync, zstdCompressSync } from 'node:zlib';
import { digestOf } from '../../src/oci/digest.ts';
import {
  DOCKER_MANIFEST_LIST,
  OCI_CONFIG,
  OCI_EMPTY,
  OCI_LAYER_TAR,
  OCI_MANIFEST,
} from '../../src/oci/media-types.ts';
import { DOCKER_EMPTY_LAYER, DOCKER_GZIP, DOCKER_TAR, OCI_GZIP, OCI_ZSTD } from './layer-forms.ts';
import {
  describeBytes,
  type ImageShape,
  type MadeLayer,
  type MadeManifest,
  makeImage,
  makeIndex,
  makeManifest,
} from './made-image.ts';
import { END_BLOCKS, tarMember } from './tar-blocks.ts';

export interface ImageKind {
  readonly name: string;
  readonly made: MadeManifest;
  /** What is said where it is asked for in converted form; null if it is converted. */
  readonly reason: RegExp | null;
  /** skopeo refuses some that the proxy and containerd take. */
  readonly isForSkopeo: boolean;
}

export function tarOf(path: string, content = path): Buffer {
  return Buffer.concat([tarMember({ path }, content), END_BLOCKS]);
}

/** A layer that holds one file of that name. */
export function layerOf(name: string, mediaType = OCI_GZIP, more: Partial<MadeLayer> = {}): MadeLayer {
  const tar = tarOf(name);
  const pack = /gzip/.test(mediaType) ? gzipSync : /zstd/.test(mediaType) ? zstdCompressSync : null;
  return {
    mediaType,
    bytes: pack === null ? tar : pack(new Uint8Array(tar)),
    diffId: digestOf(tar),
    ...more,
  };
}

/** An image of one layer that holds a file of that name, so that no two kinds have the same digest. */
const imageOf = (name: string, shape?: ImageShape, mediaType?: string) =>
  makeImage([layerOf(name, mediaType)], shape);

const emptyLayer: MadeLayer = {
  mediaType: OCI_GZIP,
  bytes: DOCKER_EMPTY_LAYER,
  diffId: digestOf(Buffer.alloc(1024)),
};
const numbered = (count: number, name: string) =>
  Array.from({ length: count }, (_, at) => layerOf(`${name} ${at}`));

const ODD_DOCKER_IMAGE = "a Docker image of OCI's layers";

export const CONVERTED_KINDS: readonly ImageKind[] = Object.entries({
  'an OCI image': imageOf('oci'),
  'a Docker image': makeImage([layerOf('docker', DOCKER_GZIP), layerOf('docker tar', DOCKER_TAR)], {
    docker: true,
  }),
  "an OCI image of Docker's layers": imageOf('docker in oci', {}, DOCKER_GZIP),
  [ODD_DOCKER_IMAGE]: makeImage([layerOf('oci in docker'), layerOf('zstd in docker', OCI_ZSTD)], {
    docker: true,
  }),
  'an image of three compressions': makeImage(
    [OCI_LAYER_TAR, OCI_GZIP, OCI_ZSTD].map((type) => layerOf(type, type)),
  ),
  'an image of an empty layer only': makeImage([emptyLayer], { config: { author: 'empty' } }),
  'an image of the same layer many times': makeImage([
    ...[layerOf('again'), emptyLayer, layerOf('again'), emptyLayer, layerOf('again')],
  ]),
  'an image of 127 layers': makeImage(numbered(127, 'high')),
  'an image whose config names no platform': imageOf('no platform', { config: { os: '', architecture: '' } }),
  'an image with a subject and an artifactType': imageOf('subject', {
    manifest: { artifactType: 'application/vnd.example', subject: imageOf('oci').descriptor },
  }),
}).map(([name, made]) => ({ name, made, reason: null, isForSkopeo: name !== ODD_DOCKER_IMAGE }));

const DOCKER_FOREIGN = 'application/vnd.docker.image.rootfs.foreign.diff.tar.gzip';
const OCI_FOREIGN = 'application/vnd.oci.image.layer.nondistributable.v1.tar+gzip';
const isForeign = /layer sha256:\w{64} \(.*\) is foreign/;

/** They are queued for conversion, which says why it cannot be. */
export const REFUSED_KINDS: readonly ImageKind[] = Object.entries<readonly [MadeManifest, RegExp]>({
  "an image with Docker's foreign layers": [
    makeImage(
      [
        // Registries take it from elsewhere only.
        layerOf('foreign', DOCKER_FOREIGN, { descriptor: { urls: ['http://127.0.0.1:9/layer'] } }),
        layerOf('not foreign', DOCKER_GZIP),
      ],
      { docker: true },
    ),
    isForeign,
  ],
  'an image with nondistributable layers': [imageOf('nondistributable', {}, OCI_FOREIGN), isForeign],
  'an image with encrypted layers': [
    imageOf('encrypted', {}, `${OCI_GZIP}+encrypted`),
    /layer sha256:\w{64} \(.*\+encrypted\) is encrypted/,
  ],
  'an image with layers of an unknown type beside others': [
    makeImage([layerOf('known'), layerOf('unknown', 'application/vnd.oci.image.layer.nydus.blob.v1')]),
    /layer sha256:\w{64} \(.*nydus.*\) is not a file system layer/,
  ],
  'an image for Windows': [
    imageOf('windows', { config: { os: 'windows', architecture: 'amd64' } }),
    /for windows\/amd64/,
  ],
  'an image without layers': [makeImage([], { config: { author: 'nobody' } }), /no layers/],
  'an image of 256 layers': [
    makeImage(new Array<MadeLayer>(256).fill(layerOf('one of 256'))),
    /256 layers.*no more than 255/,
  ],
  'an image whose config lies about a layer': [
    makeImage([layerOf('lie'), layerOf('top of a lie', OCI_GZIP, { diffId: digestOf('the lie') })]),
    new RegExp(`${digestOf(tarOf('top of a lie'))}.*${digestOf('the lie')}`),
  ],
  'an image with fewer diff IDs than layers': [
    imageOf('fewer', { config: { rootfs: { type: 'layers', diff_ids: [] } } }),
    /1 layers, its config 0 diff IDs/,
  ],
  'an image with more diff IDs than layers': [
    imageOf('more', {
      config: { rootfs: { type: 'layers', diff_ids: [digestOf(tarOf('more')), digestOf('more')] } },
    }),
    /1 layers, its config 2 diff IDs/,
  ],
  'an image whose config has no rootfs': [
    imageOf('no rootfs', { config: { rootfs: undefined } }),
    /configuration is not valid at rootfs/,
  ],
  'an image whose config is not JSON': [
    imageOf('no json', { config: Buffer.from('FROM scratch') }),
    /configuration is not JSON/,
  ],
  'an image whose config is too large': [
    imageOf('large config', { config: { author: 'x'.repeat(9 * 1024 * 1024) } }),
    /config sha256:\w{64} has \d+ bytes, more than 8388608/,
  ],
  'an image whose manifest lies about the size of its config': [
    imageOf('config size', { configDescriptor: { size: 7 } }),
    /config sha256:\w{64} has \d+ bytes, its manifest says 7/,
  ],
  'an image whose manifest lies about the size of a layer': [
    makeImage([layerOf('layer size', OCI_GZIP, { descriptor: { size: 7 } })]),
    /layer sha256:\w{64} has \d+ bytes, its manifest says 7/,
  ],
  'an image with a layer that is cut short': [
    makeImage([layerOf('cut', OCI_GZIP, { bytes: layerOf('cut').bytes.subarray(0, -9) })]),
    /gzip stream/,
  ],
}).map(([name, [made, reason]]) => ({ name, made, reason, isForSkopeo: false }));

const artifact = (config: string, layers: readonly string[], more: object = {}) => {
  const blobs = layers.map((type) => Buffer.from(`content of ${type}`));
  const empty = Buffer.from('{}');
  return makeManifest(
    OCI_MANIFEST,
    {
      config: describeBytes(empty, config),
      layers: blobs.map((blob, at) => describeBytes(blob, layers[at] ?? '')),
      ...more,
    },
    [empty, ...blobs],
  );
};
const ATTESTATION = {
  platform: { os: 'unknown', architecture: 'unknown' },
  annotations: {
    'vnd.docker.reference.type': 'attestation-manifest',
    'vnd.docker.reference.digest': imageOf('oci').descriptor.digest,
  },
};
const attestation = artifact(OCI_CONFIG, ['application/vnd.in-toto+json']);
const linux = (architecture: string, variant?: string) => ({
  platform: { os: 'linux', architecture, ...(variant === undefined ? {} : { variant }) },
});
const isArtifact = /it is an artifact, not an image/;

/** They are not even queued. */
export const OTHER_KINDS: readonly ImageKind[] = Object.entries<readonly [MadeManifest, RegExp]>({
  'a Helm chart': [
    artifact('application/vnd.cncf.helm.config.v1+json', [
      'application/vnd.cncf.helm.chart.content.v1.tar+gzip',
    ]),
    isArtifact,
  ],
  'an artifact with an empty config': [
    artifact(OCI_EMPTY, ['text/plain'], { artifactType: 'application/vnd.example.sbom' }),
    isArtifact,
  ],
  "a signature of cosign's": [
    artifact(OCI_CONFIG, ['application/vnd.dev.cosign.simplesigning.v1+json']),
    isArtifact,
  ],
  'an attestation by itself': [attestation, isArtifact],
  "a build cache of BuildKit's": [
    artifact('application/vnd.buildkit.cacheconfig.v0', [OCI_GZIP]),
    isArtifact,
  ],
  'an image that stock tools converted': [
    makeImage([
      layerOf('stock', OCI_LAYER_TAR, {
        descriptor: { annotations: { 'containerd.io/snapshot/overlaybd/version': '0.1.0' } },
      }),
    ]),
    /in the overlaybd format already/,
  ],
  'an empty index': [makeIndex([]), /holds no images/],
  'an index of attestations': [makeIndex([{ made: attestation, more: ATTESTATION }]), /holds no images/],
}).map(([name, [made, reason]]) => ({ name, made, reason, isForSkopeo: false }));

/** Entries of a large index, by what becomes of them. */
export const INDEX_ENTRIES = {
  converted: [
    { made: imageOf('amd64'), more: linux('amd64') },
    { made: imageOf('arm64', { config: { architecture: 'arm64' } }), more: linux('arm64', 'v8') },
    { made: imageOf('arm', { config: { architecture: 'arm', variant: 'v7' } }), more: linux('arm', 'v7') },
    // The same once more: BuildKit and buildah have written such.
    { made: imageOf('amd64'), more: linux('amd64') },
  ],
  left: [
    {
      made: makeImage([layerOf('windows base', DOCKER_FOREIGN), layerOf('windows')], {
        config: { os: 'windows' },
      }),
      more: { platform: { os: 'windows', architecture: 'amd64', 'os.version': '10.0.20348.1' } },
    },
    { made: attestation, more: ATTESTATION },
    { made: makeIndex([{ made: imageOf('nested'), more: linux('amd64') }]) },
    { made: artifact(OCI_EMPTY, ['text/plain']) },
  ],
} as const;

export const ALL_PLATFORMS = makeIndex([...INDEX_ENTRIES.converted, ...INDEX_ENTRIES.left]);

export const DOCKER_LIST = makeIndex(
  [
    { made: imageOf('docker amd64', { docker: true }, DOCKER_GZIP), more: linux('amd64') },
    {
      made: imageOf('docker arm64', { docker: true, config: { architecture: 'arm64' } }, DOCKER_GZIP),
      more: linux('arm64'),
    },
  ],
  DOCKER_MANIFEST_LIST,
);
