import { writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { inspectLayer } from '../../src/cli/inspect-layer.ts';
import { BufferSource } from '../../src/format/buffer-source.ts';
import { LsmtLayer } from '../../src/format/lsmt-layer.ts';
import { MergedDevice } from '../../src/format/merged-device.ts';
import { openLayerBlob } from '../../src/format/overlaybd-tar.ts';
import { golden } from '../support/golden.ts';
import { mutateLsmt } from './lsmt-bytes.ts';
import { mutate, type Range } from './mutate.ts';
import type { Random } from './random.ts';
import { readBounded } from './read-bounded.ts';
import { restoreTarChecksum } from './tar-archives.ts';
import type { FuzzTarget } from './target.ts';
import { mutateZFile } from './zfile-bytes.ts';

const WRAP_BYTES = 1536;
const TRAILER_BYTES = 1024;
const HOT: readonly Range[] = [
  [124, 136],
  [156, 157],
  [512, 560],
  [1024 + 124, 1024 + 136],
  [WRAP_BYTES, WRAP_BYTES + 96],
];

/** Layer blobs as registries hold them, wrapped in tar or not, from the wrapping to the device; and `dadi inspect` of them. */
export function layerBlobTarget(): FuzzTarget {
  const wrapped = ['ext4/layer3.lz4-4k.tar.obd', 'ext4/layer3.zstd-64k.tar.obd'].map((name) =>
    golden(name).bytes(),
  );
  const bare = ['ext4/layer3.lz4-4k.obd', 'lsmt/rand1.L4.obd'].map((name) => golden(name).bytes());
  const path = join(tmpdir(), 'fuzzed.obd');
  return {
    corpus: [...wrapped, ...bare],
    mutate(input, random, other) {
      return wrapped.includes(input) ? mutateWrapped(input, random, other) : mutateBare(input, random, other);
    },
    async run(input, random) {
      const layer = await LsmtLayer.open(await openLayerBlob(new BufferSource(input)));
      await readBounded(MergedDevice.open([layer]), random);
      if (!random.oneIn(8)) return;
      writeFileSync(path, input);
      await inspectLayer(path, new AbortController().signal);
    },
  };
}

function mutateWrapped(blob: Buffer, random: Random, other: Buffer): Buffer {
  if (random.oneIn(2)) {
    const changed = mutate(blob, random, { other, hot: HOT });
    for (const at of [0, 1024]) if (!random.oneIn(8)) restoreTarChecksum(changed.subarray(at, at + 512));
    return changed;
  }
  const inner = blob.subarray(WRAP_BYTES, blob.length - TRAILER_BYTES);
  return Buffer.concat([
    blob.subarray(0, WRAP_BYTES),
    mutateZFile(inner, random, other),
    blob.subarray(-TRAILER_BYTES),
  ]);
}

function mutateBare(blob: Buffer, random: Random, other: Buffer): Buffer {
  return blob.toString('latin1', 0, 5) === 'ZFile'
    ? mutateZFile(blob, random, other)
    : mutateLsmt(blob, random, other);
}
