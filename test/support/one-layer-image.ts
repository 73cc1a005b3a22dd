import { createReadStream } from 'node:fs';
import { stat } from 'node:fs/promises';
import { type Digest, Digester } from '../../src/oci/digest.ts';
import { ImageLayout } from '../../src/oci/image-layout.ts';
import { type Descriptor, encodeJson } from '../../src/oci/manifest.ts';
import { OCI_CONFIG, OCI_LAYER_TAR, OCI_MANIFEST } from '../../src/oci/media-types.ts';

/** Puts an image of one gzip layer into a layout, under the tag `latest`. */
export async function putOneLayerImage(
  layoutPath: string,
  layerPath: string,
  diffId: string,
  architecture = 'amd64',
): Promise<Descriptor> {
  const layout = await ImageLayout.create(layoutPath);
  const layer = await digestOfFile(layerPath);
  await layout.linkBlob(layerPath, layer);
  const configBytes = encodeJson({
    os: 'linux',
    architecture,
    rootfs: { type: 'layers', diff_ids: [diffId] },
  });
  const config = await layout.putBlob(configBytes);
  const manifestBytes = encodeJson({
    schemaVersion: 2,
    mediaType: OCI_MANIFEST,
    config: { mediaType: OCI_CONFIG, digest: config, size: configBytes.length },
    layers: [{ mediaType: `${OCI_LAYER_TAR}+gzip`, digest: layer, size: (await stat(layerPath)).size }],
  });
  const manifest = await layout.putBlob(manifestBytes);
  const descriptor = { mediaType: OCI_MANIFEST, digest: manifest, size: manifestBytes.length };
  await layout.tag('latest', descriptor);
  return descriptor;
}

async function digestOfFile(path: string): Promise<Digest> {
  const digester = new Digester();
  for await (const piece of createReadStream(path)) digester.update(piece);
  return digester.digest();
}
