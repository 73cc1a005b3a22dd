import { sql } from 'kysely';
import type { Digest } from '../oci/digest.ts';
import type { ConversionState } from './conversion-table.ts';
import type { RepositoryName } from './repository-name.ts';
import type { SqlDatabase } from './sql-database.ts';

/** A manifest that is kept, in one repository that may show it. */
export interface KeptImage extends RepositoryName {
  readonly digest: Digest;
  readonly mediaType: string;
  /** With what it names, as far as that is kept; what images share counts for each of them. */
  readonly keptBytes: number;
  /** What it names that is not kept. */
  readonly missingParts: number;
  readonly usedAtMs: number;
  /** Of its conversion; null if none was asked for. */
  readonly conversion: ConversionState | null;
}

export interface KeptRepository extends RepositoryName {
  readonly manifests: number;
  readonly blobs: number;
  /** What repositories share counts for each of them. */
  readonly keptBytes: number;
  /** Null if nothing of it is kept. */
  readonly usedAtMs: number | null;
}

/** What the catalog says that is only true while blobs are there. */
export class ContentTable {
  readonly #database: SqlDatabase;

  constructor(database: SqlDatabase) {
    this.#database = database;
  }

  /** Remembers what a manifest names. */
  async putParts(manifest: Digest, parts: readonly Digest[]): Promise<void> {
    if (parts.length === 0) return;
    const rows = [...new Set(parts)].sort().map((part) => sql`(${manifest}, ${part})`);
    await this.#database.write(
      sql`INSERT INTO manifest_parts (manifest, part) VALUES ${sql.join(rows)} ON CONFLICT DO NOTHING`,
    );
  }

  /** Manifests of which is not known what they name. */
  async withoutParts(): Promise<readonly { readonly digest: Digest; readonly mediaType: string }[]> {
    return this.#database.rows(sql<{ digest: Digest; mediaType: string }>`
      SELECT digest, media_type AS "mediaType" FROM manifests
      WHERE NOT EXISTS (SELECT 1 FROM manifest_parts WHERE manifest = manifests.digest)`);
  }

  /**
   * Takes back whatever is not true without this blob: converted layers, conversions that need it, a manifest and its
   * tags. Before it is removed, so that nothing is promised that is gone.
   * @returns the converted manifests that are of no use without it, to be removed too
   */
  async withdraw(digest: Digest): Promise<Digest[]> {
    return this.#database.transaction(async (inside) => {
      const all = new Set([digest]);
      // What is added on the way comes up too.
      for (const one of all) {
        for (const needing of await withdrawOne(inside, one, one !== digest)) all.add(needing);
      }
      all.delete(digest);
      return [...all];
    });
  }

  /**
   * Removes the links to what is not kept and named by no manifest that is, the repositories that then have nothing,
   * and failures of conversions whose original is gone.
   */
  async sweep(): Promise<void> {
    await this.#database.write(sql`
      DELETE FROM links WHERE NOT EXISTS (SELECT 1 FROM blobs WHERE blobs.digest = links.digest)
        AND NOT EXISTS (
          SELECT 1 FROM manifest_parts
          JOIN links AS named ON named.repository = links.repository AND named.digest = manifest_parts.manifest
          JOIN manifests ON manifests.digest = manifest_parts.manifest
          WHERE manifest_parts.part = links.digest)`);
    await this.#database.write(sql`
      DELETE FROM repositories WHERE NOT EXISTS (SELECT 1 FROM links WHERE repository = repositories.id)
        AND NOT EXISTS (SELECT 1 FROM tags WHERE repository = repositories.id)`);
    await this.#database.write(sql`
      DELETE FROM conversions WHERE state = 'failed'
        AND NOT EXISTS (SELECT 1 FROM manifests WHERE manifests.digest = conversions.digest)`);
  }

  /** In the order of upstream and name, from behind `after` on. */
  async repositories(after: RepositoryName | null, limit: number): Promise<readonly KeptRepository[]> {
    const { upstream, repository } = after ?? { upstream: '', repository: '' };
    return this.#database.rows(sql<KeptRepository>`
      SELECT upstream, name AS repository,
        count(manifests.digest) AS "manifests", count(blobs.digest) AS "blobs",
        CAST(coalesce(sum(blobs.size_bytes), 0) AS BIGINT) AS "keptBytes", max(blobs.used_at_ms) AS "usedAtMs"
      FROM repositories
      LEFT JOIN links ON links.repository = repositories.id
      LEFT JOIN blobs ON blobs.digest = links.digest
      LEFT JOIN manifests ON manifests.digest = blobs.digest
      WHERE (upstream, name) > (${upstream}, ${repository})
      GROUP BY upstream, name ORDER BY upstream, name LIMIT ${limit}`);
  }

  /** The manifests of a repository that are kept, those that were last used first. */
  async images({ upstream, repository }: RepositoryName, profile: string): Promise<readonly KeptImage[]> {
    return this.#database.rows(sql<KeptImage>`
      SELECT repositories.upstream, name AS repository, manifests.digest, manifests.media_type AS "mediaType",
        CAST(own.size_bytes + coalesce((
          SELECT sum(blobs.size_bytes) FROM manifest_parts JOIN blobs ON blobs.digest = part
          WHERE manifest = manifests.digest), 0) AS BIGINT) AS "keptBytes",
        (SELECT count(*) FROM manifest_parts LEFT JOIN blobs ON blobs.digest = part
          WHERE manifest = manifests.digest AND blobs.digest IS NULL) AS "missingParts",
        own.used_at_ms AS "usedAtMs", conversions.state AS "conversion"
      FROM repositories
      JOIN links ON links.repository = repositories.id
      JOIN manifests ON manifests.digest = links.digest
      JOIN blobs AS own ON own.digest = links.digest
      LEFT JOIN conversions ON conversions.digest = manifests.digest AND conversions.profile = ${profile}
      WHERE repositories.upstream = ${upstream} AND name = ${repository}
      ORDER BY own.used_at_ms DESC, manifests.digest`);
  }

  /** What tags mean, by digest. */
  async tagsOf({ upstream, repository }: RepositoryName): Promise<ReadonlyMap<Digest, readonly string[]>> {
    const rows = await this.#database.rows(sql<{ tag: string; digest: Digest }>`
      SELECT tag, digest FROM tags JOIN repositories ON repositories.id = repository
      WHERE upstream = ${upstream} AND name = ${repository} ORDER BY tag`);
    const byDigest = new Map<Digest, string[]>();
    for (const { tag, digest } of rows) byDigest.set(digest, [...(byDigest.get(digest) ?? []), tag]);
    return byDigest;
  }

  /**
   * Makes a repository forget a manifest, or all that it has: tags and links.
   * @returns the blobs that no repository is left with
   */
  async unlink(
    { upstream, repository }: RepositoryName,
    manifest: Digest | null,
  ): Promise<readonly Digest[]> {
    return this.#database.transaction(async (inside) => {
      const inRepository = sql`repository =
        (SELECT id FROM repositories WHERE upstream = ${upstream} AND name = ${repository})`;
      const which =
        manifest === null
          ? sql`TRUE`
          : // Its parts as well, unless another manifest of the repository names them.
            sql`(digest = ${manifest} OR (digest IN (SELECT part FROM manifest_parts WHERE manifest = ${manifest})
              AND NOT EXISTS (
                SELECT 1 FROM manifest_parts AS other
                JOIN links AS named ON named.digest = other.manifest AND named.repository = links.repository
                WHERE other.part = links.digest AND other.manifest <> ${manifest})))`;
      const removed = await inside.rows(
        sql<{ digest: Digest }>`DELETE FROM links WHERE ${inRepository} AND ${which} RETURNING digest`,
      );
      await inside.write(sql`
        DELETE FROM tags WHERE ${inRepository} AND ${manifest === null ? sql`TRUE` : sql`digest = ${manifest}`}`);
      const orphans: Digest[] = [];
      for (const { digest } of removed) {
        const left = await inside.row(sql`SELECT 1 AS found FROM links WHERE digest = ${digest}`);
        if (left === null) orphans.push(digest);
      }
      return orphans;
    });
  }
}

interface Needing {
  readonly digest: Digest;
  readonly profile: string;
  readonly state: ConversionState;
  readonly convertedDigest: Digest;
}

/** Returns the converted manifests that are of no use any more. `isMade` says that the blob is one. */
async function withdrawOne(inside: SqlDatabase, digest: Digest, isMade: boolean): Promise<Digest[]> {
  await inside.write(sql`DELETE FROM layers WHERE blob_digest = ${digest} OR chunk_table_digest = ${digest}`);
  // An index lists originals too (attestations): those can be fetched again.
  const needing = await inside.rows(sql<Needing>`
    SELECT digest, profile, state, converted_digest AS "convertedDigest" FROM conversions
    WHERE converted_digest = ${digest} OR (
      converted_digest IN (SELECT manifest FROM manifest_parts WHERE part = ${digest})
      AND (kind = 'image' OR ${
        isMade
          ? sql`TRUE`
          : sql`EXISTS (
        SELECT 1 FROM conversions AS made WHERE made.converted_digest = ${digest})`
      }))`);
  for (const { digest: original, profile, state } of needing) {
    const one = sql`WHERE digest = ${original} AND profile = ${profile}`;
    // One that is done is no more: the next pull queues it. One that is queued or running goes on.
    await inside.write(
      state === 'done'
        ? sql`DELETE FROM conversions ${one}`
        : sql`UPDATE conversions SET converted_digest = NULL, converted_media_type = NULL,
            converted_size_bytes = NULL ${one}`,
    );
  }
  await inside.write(sql`DELETE FROM manifests WHERE digest = ${digest}`);
  await inside.write(sql`DELETE FROM manifest_parts WHERE manifest = ${digest}`);
  await inside.write(sql`DELETE FROM tags WHERE digest = ${digest}`);
  return needing.map(({ convertedDigest }) => convertedDigest);
}
