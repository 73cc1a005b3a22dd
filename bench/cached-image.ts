/** A converted image of a layout, read as a node reads it whose disk cache holds all of it. */
import { spawnSync } from 'node:child_process';
import { open } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { demoImage } from '../demo/image.ts';
import { ChunkCache } from '../src/client/chunks/chunk-cache.ts';
import { type OpenDevice, openDevice } from '../src/client/image/device.ts';
import { openLayoutImage } from '../src/client/image/layout-image.ts';
import type { ByteSource } from '../src/format/byte-source.ts';
import { decodeChunkTable } from '../src/format/chunk-table.ts';
import { FileSource } from '../src/format/file-source.ts';
import { ImageLayout } from '../src/oci/image-layout.ts';
import { parseLayoutReference } from '../src/oci/layout-reference.ts';

const MAIN = resolve(import.meta.dirname, '../src/cli/main.ts');

/** Closing the device closes everything; the cache's directory is the caller's to remove. */
export async function openCachedImage(reference: string, cacheDirectory: string): Promise<OpenDevice> {
  const where = parseLayoutReference(reference);
  if (where === null) throw new Error(`${reference}: write oci:DIRECTORY[:TAG]`);
  const layout = await ImageLayout.open(where.directory);
  const image = await openLayoutImage(reference, where);
  const cache = await ChunkCache.open(cacheDirectory);
  const files: FileSource[] = [];
  const opened = await openDevice(
    {
      layers: image.layers,
      openLayer: async ({ digest, chunkTableDigest }, { stats }) => {
        const file = FileSource.open(layout.blobPath(digest));
        files.push(file);
        return cache.openBlob({
          digest,
          table: decodeChunkTable(await layout.readBlob(chunkTableDigest)),
          fetch: async (offset, length) => {
            const bytes = Buffer.allocUnsafe(length);
            await file.read(offset, bytes);
            return bytes;
          },
          stats,
        });
      },
    },
    { cache },
  );
  return {
    ...opened,
    close: async () => {
      await opened.close();
      await cache.close();
      await Promise.all(files.map((file) => file.close()));
    },
  };
}

/** Writes what a device shows to a plain file. */
export async function dump(device: ByteSource, path: string): Promise<void> {
  const file = await open(path, 'w');
  const piece = Buffer.alloc(4 << 20);
  for (let at = 0; at < device.size; at += piece.length) {
    const bytes = piece.subarray(0, Math.min(piece.length, device.size - at));
    await device.read(at, bytes);
    await file.write(bytes, 0, bytes.length, at);
  }
  await file.close();
}

/** Converts the demo's image into a layout below `work`. */
export async function convertedDemo(work: string): Promise<string> {
  const { layout } = await demoImage({ signal: new AbortController().signal, report: console.error });
  const target = `oci:${join(work, 'converted')}`;
  const { status } = spawnSync(process.execPath, [MAIN, 'convert', `oci:${layout}:latest`, target], {
    stdio: ['ignore', 'ignore', 'inherit'],
  });
  if (status !== 0) throw new Error('the demo image could not be converted');
  return target;
}
