import type { TarEntry } from '../../src/format/tar-entry.ts';
import { TarReader } from '../../src/format/tar-reader.ts';

/** A member of an archive with all its bytes, holes as zeros. */
export interface CollectedEntry {
  readonly entry: TarEntry;
  readonly content: Buffer;
  /** Bytes of the content that were given as holes. */
  readonly holeBytes: number;
}

/** Holes are only filled with zeros up to this size: an archive of a few bytes may claim petabytes. */
const MAX_FILLED_BYTES = 64 * 1024 * 1024;

/** Reads a whole archive, given in chunks of the sizes that `chunkSizes` repeats. */
export function collectTar(archive: Buffer, chunkSizes: readonly number[] = [65_536]): CollectedEntry[] {
  const collected: CollectedEntry[] = [];
  let current: TarEntry | null = null;
  let content: Buffer[] = [];
  let holeBytes = 0;
  const expectCurrent = () => {
    if (current === null) throw new Error('bytes outside an entry');
  };
  const reader = new TarReader({
    entry(entry) {
      if (current !== null) throw new Error(`${entry.path} begins before ${current.path} ended`);
      current = entry;
      content = [];
      holeBytes = 0;
    },
    data(bytes) {
      expectCurrent();
      if (bytes.length === 0) throw new Error('an empty piece of data');
      content.push(Buffer.from(bytes));
    },
    hole(lengthBytes) {
      expectCurrent();
      if (lengthBytes <= 0) throw new Error('an empty hole');
      holeBytes += lengthBytes;
      content.push(Buffer.alloc(Math.min(lengthBytes, MAX_FILLED_BYTES)));
    },
    end(entry) {
      if (entry !== current) throw new Error('the end of another entry');
      collected.push({ entry, content: Buffer.concat(content), holeBytes });
      current = null;
    },
  });
  for (let at = 0, i = 0; at < archive.length; i++) {
    const size = Math.max(1, chunkSizes[i % chunkSizes.length] ?? 1);
    // A chunk of its own, spoilt after use: whoever keeps a part of it is found out.
    const chunk = Buffer.from(archive.subarray(at, at + size));
    reader.write(chunk);
    chunk.fill(0xa5);
    at += size;
  }
  reader.finish();
  return collected;
}
