import { rmSync } from 'node:fs';
import { join } from 'node:path';
import Database from 'better-sqlite3';
import { type ChunkTable, decodeChunkTable, encodeChunkTable } from '../../format/chunk-table.ts';
import { type Digest, matchesDigest } from '../../oci/digest.ts';
import { makePrivateDirectory } from '../mount/private-directory.ts';
import type { MirrorTarget } from './mirror-target.ts';

export interface KnownManifest {
  readonly mediaType: string;
  readonly bytes: Buffer;
}

const FILE = 'known-content.db';
const MAX_MANIFEST_BYTES = 64 * 1024 * 1024;
/** Of blobs of two terabytes, in chunks of the usual size. */
const MAX_TABLE_BYTES = 256 * 1024 * 1024;
const MAX_PUBLIC_ROWS = 200_000;
/** What lets a blob be read by chunks. */
export interface KnownTable {
  readonly table: ChunkTable;
  /** Whether its chunks have been seen to make up the blob. */
  readonly isProven: boolean;
}

/** Cleaning up looks at every row. */
const PUTS_PER_CLEANING = 200;
const SCHEMA_VERSION = 1;
const SCHEMA = `
  CREATE TABLE manifests (digest TEXT PRIMARY KEY, media_type TEXT NOT NULL, bytes BLOB NOT NULL, used_at INTEGER NOT NULL);
  CREATE TABLE tables (digest TEXT PRIMARY KEY, bytes BLOB NOT NULL, is_proven INTEGER NOT NULL, used_at INTEGER NOT NULL);
  CREATE TABLE public (name TEXT PRIMARY KEY, used_at INTEGER NOT NULL) WITHOUT ROWID;
  PRAGMA user_version = ${SCHEMA_VERSION};
`;

/**
 * What this host knows of content that came through it, kept over restarts: manifests, chunk tables of blobs, and
 * what anybody may read. A cache: lost or damaged, it begins anew. The longest unused goes first.
 */
export class KnownContent {
  readonly #database: Database.Database;
  #puts = 0;

  private constructor(database: Database.Database) {
    this.#database = database;
  }

  /** @throws ClientError ERR_DIRECTORY_UNSAFE; the system's error */
  static open(directory: string): KnownContent {
    makePrivateDirectory(directory);
    const path = join(directory, FILE);
    try {
      return new KnownContent(openDatabase(path));
    } catch {
      for (const ending of ['', '-wal', '-shm']) rmSync(`${path}${ending}`, { force: true });
      return new KnownContent(openDatabase(path));
    }
  }

  manifest(digest: Digest): KnownManifest | null {
    const row = this.#database
      .prepare<[number, string], { media_type: string; bytes: Buffer }>(
        'UPDATE manifests SET used_at = ? WHERE digest = ? RETURNING media_type, bytes',
      )
      .get(Date.now(), digest);
    return row === undefined ? null : { mediaType: row.media_type, bytes: row.bytes };
  }

  /** Of bytes that match their digest, as far as that is possible: signed ones of Docker's first kind do not. */
  putManifest(digest: Digest, { mediaType, bytes }: KnownManifest): void {
    if (!matchesDigest(bytes, digest)) return;
    this.#put('INSERT OR REPLACE INTO manifests (digest, media_type, bytes, used_at) VALUES (?, ?, ?, ?)', [
      digest,
      mediaType,
      bytes,
    ]);
  }

  /** Of a blob. */
  table(digest: Digest): KnownTable | null {
    const row = this.#database
      .prepare<[number, string], { bytes: Buffer; is_proven: number }>(
        'UPDATE tables SET used_at = ? WHERE digest = ? RETURNING bytes, is_proven',
      )
      .get(Date.now(), digest);
    return row === undefined ? null : { table: decodeChunkTable(row.bytes), isProven: row.is_proven === 1 };
  }

  putTable(digest: Digest, { table, isProven }: KnownTable): void {
    this.#put('INSERT OR REPLACE INTO tables (digest, bytes, is_proven, used_at) VALUES (?, ?, ?, ?)', [
      digest,
      encodeChunkTable(table),
      isProven ? 1 : 0,
    ]);
  }

  /** A table whose chunks do not make up the blob. */
  dropTable(digest: Digest): void {
    this.#database.prepare('DELETE FROM tables WHERE digest = ?').run(digest);
  }

  isPublic(target: MirrorTarget, digest: Digest): boolean {
    const query = this.#database.prepare<[string], { name: string }>(
      'SELECT name FROM public WHERE name = ?',
    );
    return query.get(nameOf(target, digest)) !== undefined;
  }

  putPublic(target: MirrorTarget, digest: Digest): void {
    this.#put('INSERT OR REPLACE INTO public (name, used_at) VALUES (?, ?)', [nameOf(target, digest)]);
  }

  close(): void {
    this.#database.close();
  }

  #put(statement: string, values: readonly (string | number | Buffer)[]): void {
    this.#database.prepare(statement).run(...values, Date.now());
    if (++this.#puts % PUTS_PER_CLEANING === 0) this.#clean();
  }

  #clean(): void {
    for (const [table, maxBytes] of [
      ['manifests', MAX_MANIFEST_BYTES],
      ['tables', MAX_TABLE_BYTES],
    ] as const) {
      const totals = `SELECT digest, sum(length(bytes)) OVER (ORDER BY used_at DESC, digest) AS total FROM ${table}`;
      this.#database
        .prepare(`DELETE FROM ${table} WHERE digest IN (SELECT digest FROM (${totals}) WHERE total > ?)`)
        .run(maxBytes);
    }
    this.#database
      .prepare(
        'DELETE FROM public WHERE name IN (SELECT name FROM public ORDER BY used_at DESC LIMIT -1 OFFSET ?)',
      )
      .run(MAX_PUBLIC_ROWS);
  }
}

function nameOf({ registry, repository }: MirrorTarget, digest: Digest): string {
  return `${registry}/${repository}@${digest}`;
}

/** @throws whatever is wrong with the file */
function openDatabase(path: string): Database.Database {
  const database = new Database(path);
  try {
    database.pragma('journal_mode = WAL');
    database.pragma('synchronous = NORMAL');
    const version = database.pragma('user_version', { simple: true });
    if (version === 0) database.exec(SCHEMA);
    else if (version !== SCHEMA_VERSION) throw new Error(`its schema is of version ${version}`);
    return database;
  } catch (error) {
    database.close();
    throw error;
  }
}
