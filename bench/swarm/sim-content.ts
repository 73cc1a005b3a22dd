/** Contents for a simulation: their chunks are all alike, and small, so that checking digests costs next to nothing. */
import { createHash } from 'node:crypto';
import { type ChunkTable, encodeChunkTable } from '../../src/format/chunk-table.ts';
import { digestOf } from '../../src/oci/digest.ts';
import type { Content } from '../../src/p2p/mesh-protocol.ts';

const CHUNK_BYTES = 4096;
/** What every chunk holds. */
export const CHUNK = Buffer.alloc(CHUNK_BYTES);
const DIGEST = createHash('sha256').update(CHUNK).digest();

export interface SimContent extends Content {
  readonly chunkTable: ChunkTable;
}

export function simContent(name: string, chunks: number): SimContent {
  const chunkTable = {
    chunkSize: CHUNK_BYTES,
    blobSize: chunks * CHUNK_BYTES,
    digests: Buffer.concat(Array.from({ length: chunks }, () => DIGEST)),
  };
  const blob = digestOf(name);
  return {
    blob,
    table: digestOf(Buffer.concat([encodeChunkTable(chunkTable), Buffer.from(name)])),
    chunkTable,
  };
}
