import type { ByteSource } from '../../format/byte-source.ts';
import { FormatError } from '../../format/errors.ts';

export type FsType = 'erofs' | 'ext4';

/** Both keep their superblock at byte 1024. */
const SUPERBLOCK_OFFSET = 1024;
const EROFS_MAGIC = 0xe0f5e1e2;
const EXT_MAGIC = 0xef53;
const EXT_MAGIC_OFFSET = 56;

/** The file system on a device, by its magic number. @throws FormatError ERR_UNSUPPORTED for any other */
export async function detectFsType(device: ByteSource, signal?: AbortSignal): Promise<FsType> {
  const bytes = Buffer.alloc(EXT_MAGIC_OFFSET + 2);
  if (device.size >= SUPERBLOCK_OFFSET + bytes.length) await device.read(SUPERBLOCK_OFFSET, bytes, signal);
  if (bytes.readUInt32LE(0) === EROFS_MAGIC) return 'erofs';
  if (bytes.readUInt16LE(EXT_MAGIC_OFFSET) === EXT_MAGIC) return 'ext4';
  throw new FormatError('ERR_UNSUPPORTED', 'the image holds neither an EROFS nor an ext4 file system');
}
