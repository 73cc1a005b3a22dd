import { LsmtWriter, NO_PARENT_UUID } from '../../src/format/lsmt-writer.ts';
import { SECTOR_BYTES } from '../../src/format/segments.ts';
import { ZFileWriter } from '../../src/format/zfile-writer.ts';

const SEGMENT_SECTORS = 8192;

/** A whole disk image as one DADI layer (not tar-wrapped). */
export function layerOfDisk(disk: Buffer): Buffer {
  const parts: Buffer[] = [];
  const zfile = new ZFileWriter(
    { write: (bytes) => void parts.push(Buffer.from(bytes)) },
    { algorithm: 'zstd', blockSize: 16_384 },
  );
  const lsmt = new LsmtWriter(zfile, {
    uuid: '12345678-1234-1234-1234-123456789abc',
    parentUuid: NO_PARENT_UUID,
  });
  const sectors = disk.length / SECTOR_BYTES;
  const count = Math.ceil(sectors / SEGMENT_SECTORS);
  const first = lsmt.appendData(disk);
  const starts = Float64Array.from({ length: count }, (_, i) => i * SEGMENT_SECTORS);
  lsmt.finish({
    segments: {
      count,
      lba: starts,
      length: Uint32Array.from(starts, (start) => Math.min(SEGMENT_SECTORS, sectors - start)),
      data: starts.map((start) => first + start),
      zeroed: new Uint8Array(count),
    },
    virtualSize: disk.length,
  });
  const { headerBytes } = zfile.finish();
  const blob = Buffer.concat(parts);
  headerBytes.copy(blob);
  return blob;
}
