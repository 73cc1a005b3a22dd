import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { chainIds } from '../../src/oci/chain-id.ts';
import { digestOf } from '../../src/oci/digest.ts';
import { OCI_LAYER_TAR } from '../../src/oci/media-types.ts';
import { Containerd } from './containerd.ts';
import { type LayoutImage, unpackWithUmoci } from './images.ts';
import type { Judge } from './layer-cases.ts';
import { makeImage, putMade } from './made-image.ts';
import { run } from './processes.ts';
import { readTree, type TreeEntry } from './tree.ts';

const TAG = 'latest';

/** An image of uncompressed layers, as it is to be unpacked by others. */
export interface JudgedImage extends LayoutImage {
  readonly archives: readonly Buffer[];
}

/** Makes the image in a new layout, the lowest archive first. */
export async function putLayers(layout: string, archives: readonly Buffer[]): Promise<JudgedImage> {
  const layers = archives.map((bytes) => ({ mediaType: OCI_LAYER_TAR, bytes, diffId: digestOf(bytes) }));
  await putMade(layout, TAG, makeImage(layers));
  return { layout, tag: TAG, archives };
}

/**
 * The programs that unpack images to compare with. They work in memory, in a file system that holds all times and
 * attributes that an archive can have.
 */
export class LayerJudges {
  readonly #directory: string;
  readonly #containerd: Containerd;
  #unpacked = 0;

  private constructor(directory: string, containerd: Containerd) {
    this.#directory = directory;
    this.#containerd = containerd;
  }

  /** Needs `root`, `umoci` and `containerd`. */
  static async start(directory: string): Promise<LayerJudges> {
    mkdirSync(directory, { recursive: true });
    await run('mount', ['-t', 'tmpfs', '-o', 'size=2g', 'dadi-judges', directory]);
    try {
      return new LayerJudges(directory, await Containerd.start(join(directory, 'c')));
    } catch (error) {
      await run('umount', [directory]);
      throw error;
    }
  }

  /** What one of them makes of an image. Rejects if it takes no such image. */
  async unpack(judge: Judge, image: JudgedImage): Promise<TreeEntry[]> {
    if (judge === 'umoci') {
      const bundle = join(this.#directory, `umoci-${++this.#unpacked}`);
      return readTree(await unpackWithUmoci(image, bundle));
    }
    if (judge === 'tar' || judge === 'bsdtar') return this.#unpackWith(judge, image);
    const chainId = chainIds(image.archives.map((bytes) => digestOf(bytes))).at(-1);
    if (chainId === undefined) throw new TypeError('an image without layers');
    return this.#containerd.withUnpacked(image, chainId, judge, readTree);
  }

  /** Unpacks the archives one over the other, whatever they say about each other. */
  async #unpackWith(program: 'tar' | 'bsdtar', { archives }: JudgedImage): Promise<TreeEntry[]> {
    const root = join(this.#directory, `${program}-${++this.#unpacked}`);
    mkdirSync(root);
    for (const bytes of archives) {
      writeFileSync(`${root}.tar`, bytes);
      await run(program, ['-xpf', `${root}.tar`, '-C', root, '--numeric-owner']);
    }
    return readTree(root);
  }

  async stop(): Promise<void> {
    await this.#containerd.stop();
    await run('umount', [this.#directory]);
  }
}
