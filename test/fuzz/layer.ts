import { createHash } from 'node:crypto';
import { mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gzipSync, zstdCompressSync } from 'node:zlib';
import { Bell } from '../../src/convert/bell.ts';
import { convertLayer } from '../../src/convert/convert-layer.ts';
import { DEFAULT_LIMITS } from '../../src/convert/layer-limits.ts';
import type { LayerTask } from '../../src/convert/layer-protocol.ts';
import { LowerLayers } from '../../src/convert/lower-layers.ts';
import { DEFAULT_PROFILE } from '../../src/convert/profile.ts';
import { SharedWork } from '../../src/convert/shared-work.ts';
import { ErofsReader } from '../../src/format/erofs-reader.ts';
import { FileSource } from '../../src/format/file-source.ts';
import { LsmtLayer } from '../../src/format/lsmt-layer.ts';
import { MergedDevice } from '../../src/format/merged-device.ts';
import { openLayerBlob } from '../../src/format/overlaybd-tar.ts';
import type { Random } from './random.ts';
import { archives, mutateArchive } from './tar-archives.ts';
import { type FuzzTarget, isTyped, Violation } from './target.ts';

/** Nobody else works here. */
const WORK = new SharedWork();
const BELL = new Bell();

const MAX_READ_BYTES = 1 << 20;
const DIGEST = `sha256:${'1'.repeat(64)}`;
/** As an operator may set them: what a mutated number asks for must not be paid. */
const LIMITS = { ...DEFAULT_LIMITS, layerBytes: 1e9, layerMetadataBytes: 16e6, minFreeBytes: 0 };

/** The whole way of a layer, on another one: unpacked, laid out, written. What comes out is read whole, and holds together. */
export async function layerTarget(): Promise<FuzzTarget> {
  const scratch = join(tmpdir(), 'layers');
  mkdirSync(scratch, { recursive: true });
  const corpus = archives();
  const base = join(scratch, 'base.obd');
  await convert(corpus[0]!, { name: 'base', scratch, parents: [] });
  return {
    corpus,
    mutate: mutateArchive,
    async run(input, random) {
      const parents = random.oneIn(2) ? [base] : [];
      try {
        const path = await convert(packed(input, random), { tar: input, name: 'fuzzed', scratch, parents });
        await readAll([...parents, path]);
      } finally {
        rmSync(join(scratch, 'fuzzed.obd'), { force: true });
      }
    },
    close: () => rmSync(scratch, { recursive: true, force: true }),
  };
}

function packed(tar: Buffer, random: Random): Buffer {
  return random.pick([(bytes: Buffer) => bytes, gzipSync, zstdCompressSync])(tar);
}

/** Converts a layer and returns where its blob is. */
async function convert(
  layer: Buffer,
  where: {
    readonly tar?: Buffer;
    readonly name: string;
    readonly scratch: string;
    readonly parents: readonly string[];
  },
): Promise<string> {
  const layerPath = join(where.scratch, `${where.name}.layer`);
  const outputPath = join(where.scratch, `${where.name}.obd`);
  writeFileSync(layerPath, layer);
  const task: LayerTask = {
    layerPath,
    digest: digestOf(layer),
    diffId: digestOf(where.tar ?? layer),
    chainId: DIGEST,
    parentChainId: where.parents.length === 0 ? null : DIGEST,
    profile: DEFAULT_PROFILE,
    limits: LIMITS,
    outputPath,
  };
  const below = new LowerLayers();
  try {
    await convertLayer(task, {
      work: WORK,
      bell: BELL,
      onProgress: () => {},
      parent: () => below.device(where.parents),
    });
  } finally {
    await below.close();
  }
  return outputPath;
}

/** What our own converter wrote is sound, whatever it was made of. */
async function readAll(paths: readonly string[]): Promise<void> {
  const files = paths.map((path) => FileSource.open(path));
  try {
    const layers = await Promise.all(files.map(async (file) => LsmtLayer.open(await openLayerBlob(file))));
    const reader = await ErofsReader.open(MergedDevice.open(layers));
    let inodes = new Set<number>();
    for await (const { inode } of reader.walk()) {
      inodes = inodes.add(inode.nid);
      await reader.xattrs(inode);
      if (inode.type === 'symlink') await reader.readLink(inode);
      if (inode.type === 'file')
        await reader.readFile(inode, 0, Buffer.alloc(Math.min(inode.size, MAX_READ_BYTES)));
    }
    if (inodes.size !== reader.superblock.inodes) {
      throw new Violation(`${inodes.size} inodes, the superblock says ${reader.superblock.inodes}`);
    }
  } catch (error) {
    if (isTyped(error)) throw new Violation(`what was written cannot be read: ${error.message}`);
    throw error;
  } finally {
    await Promise.all(files.map((file) => file.close()));
  }
}

function digestOf(bytes: Buffer): string {
  return `sha256:${createHash('sha256').update(bytes).digest('hex')}`;
}
