import { z } from 'zod';
import { type Digest, isDigest } from '../../oci/digest.ts';

/** What a cache knows about one chunk table and its blob without reading the table. */
export interface TableRecord {
  /** Bytes of each chunk but the last. */
  readonly chunkSize: number;
  /** Bytes. */
  readonly blobSize: number;
  readonly blobDigest: Digest;
  /** Whose layer it is, for people: `docker.io/library/python`. Null if nobody said. */
  readonly name: string | null;
}

/** A record is JSON, padded with spaces to this length. */
export const RECORD_BYTES = 1024;
const MAX_NAME_LENGTH = 300;
const VERSION = 1;

const RECORD = z.object({
  version: z.literal(VERSION),
  chunkSize: z.int().positive(),
  blobSize: z.int().nonnegative(),
  blobDigest: z.string().refine(isDigest),
  name: z.string().nullable(),
});

export function encodeRecord(record: TableRecord): Buffer {
  const name = record.name?.replace(/[^\x20-\x7e]/g, '?').slice(0, MAX_NAME_LENGTH) ?? null;
  return Buffer.from(JSON.stringify({ version: VERSION, ...record, name }).padEnd(RECORD_BYTES));
}

/** Null for bytes that are no record. */
export function decodeRecord(bytes: Buffer): TableRecord | null {
  try {
    const { version: _, blobDigest, ...record } = RECORD.parse(JSON.parse(bytes.toString()));
    return isDigest(blobDigest) ? { ...record, blobDigest } : null;
  } catch {
    return null;
  }
}

/** How many chunks a blob has. */
export function chunkCount({ blobSize, chunkSize }: Pick<TableRecord, 'blobSize' | 'chunkSize'>): number {
  return Math.ceil(blobSize / chunkSize);
}
