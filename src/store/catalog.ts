import { randomUUID } from 'node:crypto';
import { sql } from 'kysely';
import type { Digest } from '../oci/digest.ts';
import { BlobTable } from './blob-table.ts';
import { migrate } from './catalog-schema.ts';
import { ContentTable } from './content-table.ts';
import { ConversionTable } from './conversion-table.ts';
import { Leases } from './leases.ts';
import type { RepositoryName } from './repository-name.ts';
import { type PostgresOptions, SqlDatabase } from './sql-database.ts';

export type { RepositoryName } from './repository-name.ts';

export interface TagRecord {
  readonly digest: Digest;
  /** When upstream last said so. */
  readonly checkedAtMs: number;
}

/** A layer that was converted once, for every image that has it on the same layers. */
export interface ConvertedLayerRecord {
  /** The original's chain ID (image-spec, config.md). */
  readonly chainId: Digest;
  readonly profile: string;
  readonly blobDigest: Digest;
  readonly blobSizeBytes: number;
  readonly chunkTableDigest: Digest;
  /** The uncompressed size of the original layer. */
  readonly tarSizeBytes: number;
}

/**
 * What is known about what the blob store holds: in SQLite for one process, in PostgreSQL for any number of replicas.
 * All methods reject with StoreError when the database fails.
 */
export class Catalog {
  readonly conversions: ConversionTable;
  readonly leases: Leases;
  readonly blobs: BlobTable;
  readonly content: ContentTable;
  readonly #database: SqlDatabase;

  private constructor(database: SqlDatabase) {
    const owner = randomUUID();
    this.#database = database;
    this.conversions = new ConversionTable(database, owner);
    this.leases = new Leases(database, owner);
    this.blobs = new BlobTable(database);
    this.content = new ContentTable(database);
  }

  /** How many questions to the database failed since it was opened. */
  get failures(): number {
    return this.#database.failures;
  }

  /**
   * Opens or creates the catalog at `path` (`:memory:` keeps it in memory). No other process may have it open: what
   * such a one was at is taken to be left over.
   */
  static async openSqlite(path: string): Promise<Catalog> {
    const catalog = await Catalog.#open(SqlDatabase.sqlite(path));
    await catalog.conversions.expireLeases();
    await catalog.leases.releaseAll();
    return catalog;
  }

  static openPostgres(options: PostgresOptions): Promise<Catalog> {
    return Catalog.#open(SqlDatabase.postgres(options));
  }

  static async #open(database: SqlDatabase): Promise<Catalog> {
    try {
      await migrate(database);
      return new Catalog(database);
    } catch (error) {
      await database.close();
      throw error;
    }
  }

  async close(): Promise<void> {
    await this.#database.close();
  }

  /** @param parts what it names, its chunk tables included */
  async putManifest(
    digest: Digest,
    mediaType: string,
    sizeBytes: number,
    parts: readonly Digest[],
  ): Promise<void> {
    // First: a manifest that is known with its parts unknown would be found to name nothing.
    await this.content.putParts(digest, parts);
    await this.#database.write(sql`
      INSERT INTO manifests (digest, media_type, size_bytes) VALUES (${digest}, ${mediaType}, ${sizeBytes})
      ON CONFLICT (digest) DO UPDATE SET media_type = excluded.media_type, size_bytes = excluded.size_bytes`);
  }

  /** The media type a manifest was served with, or null if it is not known. */
  async manifestMediaType(digest: Digest): Promise<string | null> {
    const row = await this.#database.row(
      sql<{ mediaType: string }>`SELECT media_type AS "mediaType" FROM manifests WHERE digest = ${digest}`,
    );
    return row?.mediaType ?? null;
  }

  /** From now on the repository may show these digests. */
  async link(where: RepositoryName, ...digests: readonly Digest[]): Promise<void> {
    if (digests.length === 0) return;
    await this.#addRepository(where);
    // In one order, so that replicas which link the same do not wait for each other in a circle.
    const named = sql.join([...new Set(digests)].sort().map((digest) => sql`(${digest})`));
    await this.#database.write(sql`
      INSERT INTO links (repository, digest)
      SELECT repositories.id, named.column1 FROM repositories, (VALUES ${named}) AS named
      WHERE upstream = ${where.upstream} AND name = ${where.repository}
      ON CONFLICT (repository, digest) DO NOTHING`);
  }

  async isLinked(where: RepositoryName, digest: Digest): Promise<boolean> {
    const row = await this.#database.row(
      sql`SELECT 1 AS found FROM links ${inRepository(where)} AND digest = ${digest}`,
    );
    return row !== null;
  }

  async putTag(where: RepositoryName, tag: string, { digest, checkedAtMs }: TagRecord): Promise<void> {
    await this.#addRepository(where);
    await this.#database.write(sql`
      INSERT INTO tags (repository, tag, digest, checked_at_ms)
      SELECT id, ${text(tag)}, ${text(digest)}, ${integer(checkedAtMs)} FROM repositories
      WHERE upstream = ${where.upstream} AND name = ${where.repository}
      ON CONFLICT (repository, tag) DO UPDATE SET
        digest = excluded.digest, checked_at_ms = excluded.checked_at_ms`);
  }

  async tag(where: RepositoryName, tag: string): Promise<TagRecord | null> {
    return this.#database.row(sql<TagRecord>`
      SELECT digest, checked_at_ms AS "checkedAtMs" FROM tags ${inRepository(where)} AND tag = ${tag}`);
  }

  async removeTag({ upstream, repository }: RepositoryName, tag: string): Promise<void> {
    await this.#database.write(sql`
      DELETE FROM tags WHERE tag = ${tag} AND repository =
        (SELECT id FROM repositories WHERE upstream = ${upstream} AND name = ${repository})`);
  }

  /** The tags that were asked for, in byte order. */
  async tags(where: RepositoryName): Promise<string[]> {
    const rows = await this.#database.rows(
      sql<{ tag: string }>`SELECT tag FROM tags ${inRepository(where)} ORDER BY tag`,
    );
    return rows.map((row) => row.tag);
  }

  /** The tags of a repository that mean this, by what upstream last said. */
  async tagsOf(where: RepositoryName, digest: Digest): Promise<string[]> {
    const rows = await this.#database.rows(
      sql<{ tag: string }>`SELECT tag FROM tags ${inRepository(where)} AND digest = ${digest} ORDER BY tag`,
    );
    return rows.map((row) => row.tag);
  }

  async repositories(): Promise<readonly RepositoryName[]> {
    return this.#database.rows(
      sql<RepositoryName>`SELECT upstream, name AS repository FROM repositories ORDER BY upstream, name`,
    );
  }

  async layer(chainId: Digest, profile: string): Promise<ConvertedLayerRecord | null> {
    return this.#database.row(sql<ConvertedLayerRecord>`
      SELECT chain_id AS "chainId", profile, blob_digest AS "blobDigest", blob_size_bytes AS "blobSizeBytes",
        chunk_table_digest AS "chunkTableDigest", tar_size_bytes AS "tarSizeBytes"
      FROM layers WHERE chain_id = ${chainId} AND profile = ${profile}`);
  }

  async putLayer(record: ConvertedLayerRecord): Promise<void> {
    const { chainId, profile, blobDigest, blobSizeBytes, chunkTableDigest, tarSizeBytes } = record;
    await this.#database.write(sql`
      INSERT INTO layers
        (chain_id, profile, blob_digest, blob_size_bytes, chunk_table_digest, tar_size_bytes)
      VALUES (${chainId}, ${profile}, ${blobDigest}, ${blobSizeBytes}, ${chunkTableDigest}, ${tarSizeBytes})
      ON CONFLICT (chain_id, profile) DO UPDATE SET
        blob_digest = excluded.blob_digest, blob_size_bytes = excluded.blob_size_bytes,
        chunk_table_digest = excluded.chunk_table_digest, tar_size_bytes = excluded.tar_size_bytes`);
  }

  async #addRepository({ upstream, repository }: RepositoryName): Promise<void> {
    await this.#database.write(sql`
      INSERT INTO repositories (upstream, name) VALUES (${upstream}, ${repository})
      ON CONFLICT (upstream, name) DO NOTHING`);
  }
}

function inRepository({ upstream, repository }: RepositoryName) {
  return sql`JOIN repositories ON repositories.id = repository WHERE upstream = ${upstream} AND name = ${repository}`;
}

/** PostgreSQL does not see what a value in a list of columns is. */
function text(value: string) {
  return sql`CAST(${value} AS TEXT)`;
}

function integer(value: number) {
  return sql`CAST(${value} AS BIGINT)`;
}
