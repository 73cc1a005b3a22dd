import Database from 'better-sqlite3';
import type { Digest } from '../oci/digest.ts';
import { migrate } from './catalog-schema.ts';
import { ConversionTable } from './conversion-table.ts';
import { ioError } from './errors.ts';

/** One repository of one upstream registry. */
export interface RepositoryName {
  /** The upstream's configured name: `docker.io`. */
  readonly upstream: string;
  readonly repository: string;
}

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

/** What is known about what the blob store holds. Every call is short and synchronous. */
export class Catalog {
  readonly conversions: ConversionTable;
  readonly #database: Database.Database;
  readonly #statements: ReturnType<typeof prepareStatements>;

  private constructor(database: Database.Database) {
    this.#database = database;
    this.#statements = prepareStatements(database);
    this.conversions = new ConversionTable(database);
  }

  /** Opens or creates the catalog at `path` (`:memory:` keeps it in memory). */
  static open(path: string): Catalog {
    let database: Database.Database | null = null;
    try {
      database = new Database(path);
      database.pragma('journal_mode = WAL');
      // A power cut may lose the last moments of a WAL, never its consistency: what is lost is asked again.
      database.pragma('synchronous = NORMAL');
      database.pragma('foreign_keys = ON');
      migrate(database);
      return new Catalog(database);
    } catch (cause) {
      database?.close();
      throw ioError(`cannot open the catalog ${path}`, cause);
    }
  }

  close(): void {
    this.#database.close();
  }

  putManifest(digest: Digest, mediaType: string, sizeBytes: number): void {
    this.#statements.putManifest.run(digest, mediaType, sizeBytes);
  }

  /** The media type a manifest was served with, or null if it is not known. */
  manifestMediaType(digest: Digest): string | null {
    return this.#statements.manifest.get(digest)?.mediaType ?? null;
  }

  /** From now on the repository may show these digests. */
  link(where: RepositoryName, ...digests: Digest[]): void {
    this.#database.transaction(() => {
      const id = this.#repositoryId(where);
      for (const digest of digests) this.#statements.link.run(id, digest);
    })();
  }

  isLinked(where: RepositoryName, digest: Digest): boolean {
    return this.#statements.isLinked.get(where.upstream, where.repository, digest) !== undefined;
  }

  putTag(where: RepositoryName, tag: string, record: TagRecord): void {
    this.#database.transaction(() => {
      this.#statements.putTag.run(this.#repositoryId(where), tag, record.digest, record.checkedAtMs);
    })();
  }

  tag(where: RepositoryName, tag: string): TagRecord | null {
    return this.#statements.tag.get(where.upstream, where.repository, tag) ?? null;
  }

  removeTag(where: RepositoryName, tag: string): void {
    this.#statements.removeTag.run(where.upstream, where.repository, tag);
  }

  /** The tags that were asked for, in byte order. */
  tags(where: RepositoryName): string[] {
    return this.#statements.tags.all(where.upstream, where.repository).map((row) => row.tag);
  }

  repositories(): RepositoryName[] {
    return this.#statements.repositories.all();
  }

  layer(chainId: Digest, profile: string): ConvertedLayerRecord | null {
    return this.#statements.layer.get(chainId, profile) ?? null;
  }

  putLayer(record: ConvertedLayerRecord): void {
    this.#statements.putLayer.run(record);
  }

  #repositoryId({ upstream, repository }: RepositoryName): number {
    this.#statements.addRepository.run(upstream, repository);
    return this.#statements.repositoryId.get(upstream, repository)!.id;
  }
}

function prepareStatements(database: Database.Database) {
  const inRepository = 'JOIN repositories ON repositories.id = repository WHERE upstream = ? AND name = ?';
  return {
    putManifest: database.prepare<[string, string, number]>(
      `INSERT INTO manifests (digest, media_type, size_bytes) VALUES (?, ?, ?)
       ON CONFLICT DO UPDATE SET media_type = excluded.media_type, size_bytes = excluded.size_bytes`,
    ),
    manifest: database.prepare<[string], { mediaType: string }>(
      'SELECT media_type AS mediaType FROM manifests WHERE digest = ?',
    ),
    addRepository: database.prepare<[string, string]>(
      'INSERT INTO repositories (upstream, name) VALUES (?, ?) ON CONFLICT DO NOTHING',
    ),
    repositoryId: database.prepare<[string, string], { id: number }>(
      'SELECT id FROM repositories WHERE upstream = ? AND name = ?',
    ),
    repositories: database.prepare<[], RepositoryName>(
      'SELECT upstream, name AS repository FROM repositories ORDER BY upstream, name',
    ),
    link: database.prepare<[number, string]>(
      'INSERT INTO links (repository, digest) VALUES (?, ?) ON CONFLICT DO NOTHING',
    ),
    isLinked: database.prepare<[string, string, string], { digest: string }>(
      `SELECT digest FROM links ${inRepository} AND digest = ?`,
    ),
    putTag: database.prepare<[number, string, string, number]>(
      `INSERT INTO tags (repository, tag, digest, checked_at_ms) VALUES (?, ?, ?, ?)
       ON CONFLICT DO UPDATE SET digest = excluded.digest, checked_at_ms = excluded.checked_at_ms`,
    ),
    tag: database.prepare<[string, string, string], TagRecord>(
      `SELECT digest, checked_at_ms AS checkedAtMs FROM tags ${inRepository} AND tag = ?`,
    ),
    removeTag: database.prepare<[string, string, string]>(
      `DELETE FROM tags WHERE repository = (SELECT id FROM repositories WHERE upstream = ? AND name = ?)
       AND tag = ?`,
    ),
    tags: database.prepare<[string, string], { tag: string }>(
      `SELECT tag FROM tags ${inRepository} ORDER BY tag`,
    ),
    layer: database.prepare<[string, string], ConvertedLayerRecord>(
      `SELECT chain_id AS chainId, profile, blob_digest AS blobDigest, blob_size_bytes AS blobSizeBytes,
         chunk_table_digest AS chunkTableDigest, tar_size_bytes AS tarSizeBytes
       FROM layers WHERE chain_id = ? AND profile = ?`,
    ),
    putLayer: database.prepare<[ConvertedLayerRecord]>(
      `INSERT OR REPLACE INTO layers
       VALUES (@chainId, @profile, @blobDigest, @blobSizeBytes, @chunkTableDigest, @tarSizeBytes)`,
    ),
  };
}
