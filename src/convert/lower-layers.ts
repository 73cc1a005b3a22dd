import type { ByteSource } from '../format/byte-source.ts';
import { FileSource } from '../format/file-source.ts';
import { LsmtLayer } from '../format/lsmt-layer.ts';
import { MergedDevice } from '../format/merged-device.ts';
import { openLayerBlob } from '../format/overlaybd-tar.ts';

interface OpenLayer {
  readonly file: ByteSource;
  readonly layer: LsmtLayer;
}

/**
 * Converted layers that are opened to build on them. They stay open from one layer of an image to the next, which needs
 * them all again.
 */
export class LowerLayers {
  /** By the paths of their blobs. */
  readonly #open = new Map<string, OpenLayer>();

  /** The device that the blobs make, bottom first; null without any. Good until the next call. */
  async device(paths: readonly string[]): Promise<ByteSource | null> {
    const wanted = new Set(paths);
    await this.#close((path) => !wanted.has(path));
    if (paths.length === 0) return null;
    const layers: LsmtLayer[] = [];
    for (const path of paths) layers.push((this.#open.get(path) ?? (await this.#openOne(path))).layer);
    return MergedDevice.open(layers);
  }

  async close(): Promise<void> {
    await this.#close(() => true);
  }

  async #openOne(path: string): Promise<OpenLayer> {
    const file = FileSource.open(path);
    try {
      const opened = { file, layer: await LsmtLayer.open(await openLayerBlob(file)) };
      this.#open.set(path, opened);
      return opened;
    } catch (error) {
      await file.close();
      throw error;
    }
  }

  async #close(isOver: (path: string) => boolean): Promise<void> {
    const over = [...this.#open].filter(([path]) => isOver(path));
    for (const [path] of over) this.#open.delete(path);
    for (const [, { file }] of over) await file.close();
  }
}
