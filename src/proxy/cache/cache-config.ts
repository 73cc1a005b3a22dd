import { statfs } from 'node:fs/promises';
import { z } from 'zod';
import type { CacheLimits } from './garbage-collector.ts';

/** Of the file system: what the cache may take if nothing is said. */
const DEFAULT_SHARE = 0.8;
/** Of the file system: what is to stay free if nothing is said. */
const DEFAULT_FREE_SHARE = 0.05;

const VERIFY_EVERY_MS = 30 * 24 * 60 * 60_000;

/** What is kept, and how long. */
export const cacheSchema = z
  .strictObject({
    /** Null: as much as fits. Left out: 80 % of the file system with the blobs, of a bucket no limit. */
    maxBytes: z.int().positive().nullable().optional(),
    /** What nobody used for so long is removed. Null: it stays while there is room. */
    maxAgeMs: z.int().positive().nullable().default(null),
    /** What is kept free of the file system, by removing what was not used for the longest time. Left out: 5 % of it. */
    minFreeBytes: z.int().nonnegative().optional(),
    /** What was used within this time is never removed: a client, or another replica, may be about to read it. */
    spareMs: z.int().nonnegative().default(300_000),
    /** How often is looked whether something has to go. */
    intervalMs: z.int().min(1_000, 'is at least 1000').default(60_000),
    /** How long "upstream does not have it" is believed. 0: not at all. */
    notFoundTtlMs: z.int().nonnegative().max(3_600_000, 'is at most 3600000 (an hour)').default(5_000),
    /**
     * Each blob is read and hashed again this often, slowly, in the background. Null: never. Left out: in a directory
     * every 30 days, in a bucket, which looks after itself and costs for each read, never.
     */
    verifyEveryMs: z.int().positive().nullable().optional(),
  })
  .prefault({});

export type CacheConfig = z.output<typeof cacheSchema>;

/** The limits that hold now. @param directory on the file system with the blobs; null if they are on none */
export async function limitsOf(config: CacheConfig, directory: string | null): Promise<CacheLimits> {
  const { maxAgeMs, spareMs } = config;
  const totalBytes = directory === null ? null : await fileSystemBytes(directory);
  const share = (of: number) => (totalBytes === null ? null : Math.floor(totalBytes * of));
  return {
    maxBytes: config.maxBytes === undefined ? share(DEFAULT_SHARE) : config.maxBytes,
    minFreeBytes: config.minFreeBytes ?? share(DEFAULT_FREE_SHARE) ?? 0,
    maxAgeMs,
    spareMs,
  };
}

/** Null: never. @param directory as for {@link limitsOf} */
export function verifyEveryMsOf({ verifyEveryMs }: CacheConfig, directory: string | null): number | null {
  if (verifyEveryMs !== undefined) return verifyEveryMs;
  return directory === null ? null : VERIFY_EVERY_MS;
}

async function fileSystemBytes(directory: string): Promise<number> {
  const { blocks, bsize } = await statfs(directory);
  return blocks * bsize;
}

export async function freeBytesOf(directory: string): Promise<number> {
  const { bavail, bsize } = await statfs(directory);
  return bavail * bsize;
}
