import type { ByteSource } from '../format/byte-source.ts';
import { ErofsReader } from '../format/erofs-reader.ts';
import { measureSpace, type SpaceUse } from '../format/erofs-space.ts';
import { FormatError } from '../format/errors.ts';
import { formatBytes } from './output.ts';

/** What the file system on a device takes; null if it is another than ours, or not all there. */
export async function spaceOf(device: ByteSource, signal: AbortSignal): Promise<SpaceUse | null> {
  try {
    return await measureSpace(await ErofsReader.open(device, signal), signal);
  } catch (error) {
    if (error instanceof FormatError) return null;
    throw error;
  }
}

export function formatSpace(space: SpaceUse): string {
  const { fileBytes, filePaddingBytes, nameBytes, inodeBytes, inodeSlackBytes } = space;
  return [
    `files ${formatBytes(fileBytes)}, padded by ${formatBytes(filePaddingBytes)}`,
    `names ${formatBytes(nameBytes)}`,
    `inodes ${formatBytes(inodeBytes)}, ${formatBytes(inodeSlackBytes)} of it unused`,
  ].join('; ');
}
