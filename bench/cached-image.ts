/** A converted image of a layout, read as a node reads it whose disk cache holds all of it. */
import { ChunkCache } from '../src/client/chunks/chunk-cache.ts';
import { type OpenDevice, openDevice } from '../src/client/image/device.ts';
import { openLayoutImage } from '../src/client/image/layout-image.ts';
import { decodeChunkTable } from '../src/format/chunk-table.ts';
import { FileSource } from '../src/format/file-source.ts';
import { ImageLayout } from '../src/oci/image-layout.ts';
import { parseLayoutReference } from '../src/oci/layout-reference.ts';

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
