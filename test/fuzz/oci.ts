import { mkdirSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { planLayers } from '../../src/convert/image-plan.ts';
import { parseDigest } from '../../src/oci/digest.ts';
import { parseErrorBody } from '../../src/oci/errors.ts';
import { ImageLayout } from '../../src/oci/image-layout.ts';
import { parseLayoutReference } from '../../src/oci/layout-reference.ts';
import { encodeJson, type ImageManifest, parseImageConfig, parseManifest } from '../../src/oci/manifest.ts';
import { layerFormat } from '../../src/oci/media-types.ts';
import { formatReference, parseReference } from '../../src/oci/reference.ts';
import { mutateJson } from './json-bytes.ts';
import { mutate } from './mutate.ts';
import { type FuzzTarget, Violation } from './target.ts';

const DIGEST = `sha256:${'5'.repeat(64)}`;
const LAYER = { mediaType: 'application/vnd.oci.image.layer.v1.tar+gzip', digest: DIGEST, size: 77 };
const MANIFEST = {
  schemaVersion: 2,
  mediaType: 'application/vnd.oci.image.manifest.v1+json',
  config: { mediaType: 'application/vnd.oci.image.config.v1+json', digest: DIGEST, size: 9 },
  layers: [
    LAYER,
    { ...LAYER, mediaType: 'application/vnd.docker.image.rootfs.diff.tar.gzip', annotations: { a: 'b' } },
  ],
  annotations: { 'org.opencontainers.image.title': 'x' },
  subject: LAYER,
};
const INDEX = {
  schemaVersion: 2,
  manifests: [
    {
      mediaType: MANIFEST.mediaType,
      digest: DIGEST,
      size: 5,
      platform: { os: 'linux', architecture: 'arm64', variant: 'v8' },
    },
    {
      mediaType: MANIFEST.mediaType,
      digest: DIGEST,
      size: 5,
      annotations: { 'vnd.docker.reference.type': 'attestation-manifest' },
    },
  ],
};
const CONFIG = {
  os: 'linux',
  architecture: 'amd64',
  config: { Env: ['A=b'] },
  rootfs: { type: 'layers', diff_ids: [DIGEST, `sha512:${'6'.repeat(128)}`] },
  history: [{ created_by: 'x' }],
};

const jsonTarget = (documents: readonly unknown[], run: FuzzTarget['run']): FuzzTarget => ({
  corpus: documents.map((document) => Buffer.from(JSON.stringify(document))),
  mutate: mutateJson,
  run,
});

/** Manifests and indexes, and what a conversion would do with them. */
export function manifestTarget(): FuzzTarget {
  const config = parseImageConfig(Buffer.from(JSON.stringify(CONFIG)));
  return jsonTarget([MANIFEST, INDEX], (input) => {
    const manifest = parseManifest(input, null);
    if (manifest.kind === 'index') return void encodeJson(manifest.manifests);
    for (const layer of manifest.layers) layerFormat(layer.mediaType);
    if (manifest.kind === 'image') planLayers(manifest, config);
  });
}

/** Image configurations, and the plan for an image that has them. */
export function imageConfigTarget(): FuzzTarget {
  const manifest = parseManifest(Buffer.from(JSON.stringify(MANIFEST))) as ImageManifest;
  return jsonTarget([CONFIG], (input) => {
    const config = parseImageConfig(input);
    encodeJson(config.raw);
    planLayers(manifest, config);
  });
}

/** The index of an image layout, and what it leads to; and a registry's error answers. */
export function layoutTarget(): FuzzTarget {
  const directory = join(tmpdir(), 'layout');
  mkdirSync(directory, { recursive: true });
  writeFileSync(join(directory, 'oci-layout'), '{"imageLayoutVersion":"1.0.0"}');
  return {
    ...jsonTarget([INDEX], async (input) => {
      parseErrorBody(input.toString());
      writeFileSync(join(directory, 'index.json'), input);
      await (await ImageLayout.open(directory)).list();
    }),
  };
}

const REFERENCES = [
  'alpine',
  'docker.io/library/alpine:3.20',
  `localhost:5000/a/b_c/d--e:tag@${DIGEST}`,
  '[::1]:5000/x@sha512:'.padEnd(148, '7'),
];

/** References, layout references and digests; those that are taken are the same when written and read again. */
export function referenceTarget(): FuzzTarget {
  return {
    corpus: REFERENCES.map((text) => Buffer.from(text)),
    mutate: (input, random, other) => mutate(input, random, { other }),
    run(input) {
      const text = input.toString();
      parseLayoutReference(text);
      const reference = parseReference(text);
      const again = parseReference(formatReference(reference));
      if (JSON.stringify(again) !== JSON.stringify(reference))
        throw new Violation(`${text} changes when written`);
      if (reference.digest !== null) parseDigest(reference.digest);
    },
  };
}
