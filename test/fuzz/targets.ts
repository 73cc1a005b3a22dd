import { chunkTableTarget } from './chunk-table.ts';
import { erofsParentTarget, erofsTarget } from './erofs.ts';
import { layerTarget } from './layer.ts';
import { layerBlobTarget } from './layer-blob.ts';
import { lsmtTarget } from './lsmt.ts';
import { imageConfigTarget, layoutTarget, manifestTarget, referenceTarget } from './oci.ts';
import { gzipTarget, zstdTarget } from './stream.ts';
import { tarTarget } from './tar.ts';
import type { FuzzTarget } from './target.ts';
import { zfileIntegrityTarget, zfileTarget } from './zfile.ts';

const TARGETS: Readonly<Record<string, () => FuzzTarget | Promise<FuzzTarget>>> = {
  tar: tarTarget,
  layer: layerTarget,
  gzip: gzipTarget,
  zstd: zstdTarget,
  zfile: zfileTarget,
  'zfile-integrity': zfileIntegrityTarget,
  lsmt: lsmtTarget,
  'layer-blob': layerBlobTarget,
  erofs: erofsTarget,
  'erofs-parent': erofsParentTarget,
  manifest: manifestTarget,
  'image-config': imageConfigTarget,
  'image-layout': layoutTarget,
  reference: referenceTarget,
  'chunk-table': chunkTableTarget,
};

export const TARGET_NAMES: readonly string[] = Object.keys(TARGETS);

export async function openTarget(name: string): Promise<FuzzTarget> {
  const open = TARGETS[name];
  if (open === undefined) throw new Error(`no target ${name}; there are ${TARGET_NAMES.join(', ')}`);
  return open();
}
