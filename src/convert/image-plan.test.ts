import { expect, test } from 'vitest';
import { OVERLAYBD_VERSION_ANNOTATION } from '../oci/annotations.ts';
import { digestOf } from '../oci/digest.ts';
import { encodeJson, type ImageManifest, parseImageConfig, parseManifest } from '../oci/manifest.ts';
import { OCI_CONFIG, OCI_LAYER_TAR, OCI_MANIFEST } from '../oci/media-types.ts';
import { planLayers } from './image-plan.ts';

const DIFF_IDS = ['a', 'b'].map((name) => digestOf(name));

function image(mediaTypes: readonly string[], diffIds = DIFF_IDS, os = 'linux', annotations = {}) {
  const descriptor = (mediaType: string) => ({ mediaType, digest: digestOf(mediaType), size: 1 });
  const bytes = encodeJson({
    schemaVersion: 2,
    mediaType: OCI_MANIFEST,
    config: descriptor(OCI_CONFIG),
    layers: mediaTypes.map((mediaType) => ({ ...descriptor(mediaType), annotations })),
  });
  const config = encodeJson({
    os,
    architecture: 'amd64',
    rootfs: { type: 'layers', diff_ids: diffIds },
  });
  return { manifest: parseManifest(bytes) as ImageManifest, config: parseImageConfig(config) };
}

test('a layer is planned with its compression, diff ID, and the chain IDs of itself and its parent', () => {
  const { manifest, config } = image([`${OCI_LAYER_TAR}+gzip`, `${OCI_LAYER_TAR}+zstd`]);
  const [bottom, top] = planLayers(manifest, config);
  expect(bottom).toMatchObject({
    compression: 'gzip',
    diffId: DIFF_IDS[0],
    chainId: DIFF_IDS[0],
    parentChainId: null,
  });
  // OCI image-spec, config.md: ChainID(L0|L1) = Digest(ChainID(L0) + " " + DiffID(L1))
  const chainId = digestOf(`${DIFF_IDS[0]} ${DIFF_IDS[1]}`);
  expect(top).toMatchObject({
    compression: 'zstd',
    diffId: DIFF_IDS[1],
    chainId,
    parentChainId: DIFF_IDS[0],
  });
});

test('an image whose config does not fit its layers is refused', () => {
  const { manifest, config } = image([OCI_LAYER_TAR], DIFF_IDS);
  expect(() => planLayers(manifest, config)).toThrow(/1 layers, its config 2 diff IDs/);
});

test.each([
  ['application/vnd.docker.image.rootfs.foreign.diff.tar.gzip', 'foreign'],
  [`${OCI_LAYER_TAR}+gzip+encrypted`, 'encrypted'],
  ['application/vnd.example.something', 'is not a file system layer'],
])('a layer of type %s is refused, and named', (mediaType, reason) => {
  const { manifest, config } = image([OCI_LAYER_TAR, mediaType]);
  expect(() => planLayers(manifest, config)).toThrow(reason);
  expect(() => planLayers(manifest, config)).toThrow(digestOf(mediaType));
});

test('an image for another system than linux is left as it is, and says for which one', () => {
  const { manifest, config } = image([OCI_LAYER_TAR, OCI_LAYER_TAR], DIFF_IDS, 'windows');
  expect(() => planLayers(manifest, config)).toThrow(/left as it is: it is for windows\/amd64/);
  expect(() => planLayers(manifest, config)).toThrow(
    expect.objectContaining({ code: 'ERR_CONVERT_UNSUPPORTED' }),
  );
});

test('an image that is converted already, by whatever tool, is left as it is', () => {
  const { manifest, config } = image([OCI_LAYER_TAR, OCI_LAYER_TAR], DIFF_IDS, 'linux', {
    [OVERLAYBD_VERSION_ANNOTATION]: '0.1.0',
  });
  expect(() => planLayers(manifest, config)).toThrow(/in the overlaybd format already/);
});

test('255 layers are planned, and one more than overlaybd stacks is refused', () => {
  const stack = (count: number) => {
    const { manifest, config } = image(
      Array.from({ length: count }, () => OCI_LAYER_TAR),
      Array.from({ length: count }, (_, at) => digestOf(String(at))),
    );
    return () => planLayers(manifest, config);
  };
  expect(stack(255)()).toHaveLength(255);
  expect(stack(256)).toThrow(/256 layers, and overlaybd stacks no more than 255/);
});
