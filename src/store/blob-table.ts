import { sql } from 'kysely';
import type { Digest } from '../oci/digest.ts';
import type { ListedBlob, StoredBlob } from './blob-store.ts';
import type { SqlDatabase } from './sql-database.ts';

/** A blob of the store as the catalog knows it. */
export interface BlobRecord extends StoredBlob {
  readonly addedAtMs: number;
  /** When it, or a manifest that names it, was last served or converted from; to some seconds. */
  readonly usedAtMs: number;
}

/** Digests in one statement: SQLite and PostgreSQL take more, but not any number. */
const BATCH = 500;

/** Which blobs there are, how large, and when they were last of use. */
export class BlobTable {
  readonly #database: SqlDatabase;

  constructor(database: SqlDatabase) {
    this.#database = database;
  }

  /** Blobs that were just stored, or found. */
  async add(blobs: readonly ListedBlob[]): Promise<void> {
    for (const some of inBatches(blobs, BATCH / 5)) {
      const rows = some.map(
        ({ digest, sizeBytes, modifiedAtMs }) =>
          sql`(${digest}, ${sizeBytes}, ${Math.floor(modifiedAtMs)}, ${Math.floor(modifiedAtMs)}, ${Math.floor(modifiedAtMs)})`,
      );
      await this.#database.write(sql`
        INSERT INTO blobs (digest, size_bytes, added_at_ms, used_at_ms, verified_at_ms) VALUES ${sql.join(rows)}
        ON CONFLICT (digest) DO UPDATE SET size_bytes = excluded.size_bytes, used_at_ms = excluded.used_at_ms
        WHERE blobs.used_at_ms <= excluded.used_at_ms`);
    }
  }

  /** Blobs that were of use, and with a manifest what it names: whoever has it will ask for them. */
  async use(digests: readonly Digest[], nowMs: number): Promise<void> {
    for (const some of inBatches(digests, BATCH)) {
      const these = sql.join(some);
      await this.#database.write(sql`
        UPDATE blobs SET used_at_ms = ${nowMs} WHERE used_at_ms < ${nowMs} AND (digest IN (${these})
          OR digest IN (SELECT part FROM manifest_parts WHERE manifest IN (${these})))`);
    }
  }

  /** They are no longer in the store. */
  async remove(digests: readonly Digest[]): Promise<void> {
    for (const some of inBatches(digests, BATCH)) {
      await this.#database.write(sql`DELETE FROM blobs WHERE digest IN (${sql.join(some)})`);
    }
  }

  async get(digest: Digest): Promise<BlobRecord | null> {
    return this.#database.row(sql<BlobRecord>`SELECT ${COLUMNS} FROM blobs WHERE digest = ${digest}`);
  }

  /** Which of them are not in the catalog. */
  async unknown(blobs: readonly ListedBlob[]): Promise<ListedBlob[]> {
    const missing: ListedBlob[] = [];
    for (const some of inBatches(blobs, BATCH)) {
      const these = sql.join(some.map(({ digest }) => digest));
      const rows = await this.#database.rows(
        sql<{ digest: Digest }>`SELECT digest FROM blobs WHERE digest IN (${these})`,
      );
      const known = new Set(rows.map(({ digest }) => digest));
      missing.push(...some.filter(({ digest }) => !known.has(digest)));
    }
    return missing;
  }

  async totals(): Promise<{ readonly count: number; readonly sizeBytes: number }> {
    const row = await this.#database.row(sql<{ count: number; sizeBytes: number | null }>`
      SELECT count(*) AS "count", CAST(sum(size_bytes) AS BIGINT) AS "sizeBytes" FROM blobs`);
    return { count: row?.count ?? 0, sizeBytes: row?.sizeBytes ?? 0 };
  }

  /** Those not used since `usedBeforeMs`, the longest unused first; of equals, and after `after`, in byte order. */
  async leastUsed(
    usedBeforeMs: number,
    after: Pick<BlobRecord, 'usedAtMs' | 'digest'> | null,
    limit: number,
  ): Promise<readonly BlobRecord[]> {
    const later =
      after === null ? sql`` : sql`AND (used_at_ms, digest) > (${after.usedAtMs}, ${after.digest})`;
    return this.#database.rows(sql<BlobRecord>`
      SELECT ${COLUMNS} FROM blobs WHERE used_at_ms <= ${usedBeforeMs} ${later}
      ORDER BY used_at_ms, digest LIMIT ${limit}`);
  }

  /** In the order of their digests, from behind `after` on. */
  async list(after: string, limit: number): Promise<readonly BlobRecord[]> {
    return this.#database.rows(
      sql<BlobRecord>`SELECT ${COLUMNS} FROM blobs WHERE digest > ${after} ORDER BY digest LIMIT ${limit}`,
    );
  }

  /** The one whose bytes were last checked the longest ago, before `beforeMs`; null if there is none. */
  async nextToVerify(beforeMs: number): Promise<BlobRecord | null> {
    return this.#database.row(sql<BlobRecord>`
      SELECT ${COLUMNS} FROM blobs WHERE verified_at_ms < ${beforeMs} ORDER BY verified_at_ms, digest LIMIT 1`);
  }

  async setVerified(digest: Digest, nowMs: number): Promise<void> {
    await this.#database.write(sql`UPDATE blobs SET verified_at_ms = ${nowMs} WHERE digest = ${digest}`);
  }
}

const COLUMNS = sql.raw(
  'digest, size_bytes AS "sizeBytes", added_at_ms AS "addedAtMs", used_at_ms AS "usedAtMs"',
);

function* inBatches<T>(all: readonly T[], size: number): Iterable<readonly T[]> {
  for (let start = 0; start < all.length; start += size) yield all.slice(start, start + size);
}
