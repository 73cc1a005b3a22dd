import { BlockMemory } from '../../format/block-memory.ts';
import { LsmtLayer } from '../../format/lsmt-layer.ts';
import { MergedDevice } from '../../format/merged-device.ts';
import { openLayerBlob } from '../../format/overlaybd-tar.ts';
import type { CompletionOptions, CompletionProgress, CompletionResult } from '../chunks/blob-completion.ts';
import { newReadStats, type ReadStats } from '../chunks/read-stats.ts';
import { detectFsType, type FsType } from './fs-type.ts';
import type { ImageLayer, LayerAccess, LayeredImage, LayerSource } from './image.ts';

/** Of all devices of the process together. */
const MAX_BLOCK_MEMORY_BYTES = 32 * 1024 * 1024;
/** A host whose containers have started has better use for it. */
const BLOCK_MEMORY_IDLE_MS = 30_000;

let blockMemory: BlockMemory | undefined;

function blocks(): BlockMemory {
  if (blockMemory === undefined) {
    const memory = new BlockMemory(MAX_BLOCK_MEMORY_BYTES);
    setInterval(() => memory.forgetUnused(), BLOCK_MEMORY_IDLE_MS).unref();
    blockMemory = memory;
  }
  return blockMemory;
}

/** An image as a disk. */
export interface OpenDevice {
  readonly device: MergedDevice;
  readonly fsType: FsType;
  /** Goes on counting. */
  readonly stats: ReadStats;
  /**
   * Gets all layers onto the disk in the background, one after the other; see {@link completeBlob}. Progress is that
   * of all layers.
   * @throws SourceError when their source fails: to be begun again later; the signal's reason
   */
  complete(options: CompletionOptions): Promise<CompletionResult>;
  /** Closes the layers; the image stays its opener's to close. */
  close(): Promise<void>;
}

/**
 * Opens all layers of an image, side by side, and merges them: some hundred KB are read for that.
 * @throws ClientError, FormatError, SourceError, RegistryError; the signal's reason
 */
export async function openDevice(
  image: LayeredImage,
  options: Omit<LayerAccess, 'stats'>,
): Promise<OpenDevice> {
  const stats = newReadStats();
  const opened: LayerSource[] = [];
  const close = async () => {
    await Promise.all(opened.map((source) => source.close()));
  };
  const openLayer = async (layer: ImageLayer): Promise<LsmtLayer> => {
    const blob = await image.openLayer(layer, { ...options, stats });
    opened.push(blob);
    return LsmtLayer.open(await openLayerBlob(blob, options.signal, blocks()), options.signal);
  };
  const results = await Promise.allSettled(image.layers.map(openLayer));
  try {
    const layers = results.map((result) => {
      if (result.status === 'rejected') throw result.reason;
      return result.value;
    });
    const device = MergedDevice.open(layers);
    const fsType = await detectFsType(device, options.signal);
    for (const blob of opened) blob.keepRead?.();
    return { device, fsType, stats, complete: (options) => completeAll(opened, options), close };
  } catch (error) {
    await close();
    throw error;
  }
}

async function completeAll(
  layers: readonly LayerSource[],
  options: CompletionOptions,
): Promise<CompletionResult> {
  const blobBytes = layers.reduce((sum, { size }) => sum + size, 0);
  let doneBytes = 0;
  for (const layer of layers) {
    const onProgress = ({ heldBytes }: CompletionProgress) =>
      options.onProgress?.({ heldBytes: doneBytes + heldBytes, blobBytes });
    const result = await layer.complete?.({ ...options, onProgress });
    if (result === 'no-room' || result === 'closed') return result;
    doneBytes += layer.size;
  }
  return 'complete';
}
