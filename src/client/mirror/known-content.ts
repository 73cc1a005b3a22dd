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
  readonly #path: string;
  readonly #onProblem: (error: unknown) => void;
  #database: Database.Database;
  #puts = 0;
  #isWell = true;

  private constructor(path: string, database: Database.Database, onProblem: (error: unknown) => void) {
    this.#path = path;
    this.#database = database;
    this.#onProblem = onProblem;
  }

  /**
   * @param onProblem told of an error that makes it forget, or not remember: a full disk, say. Once until it is over
   * @throws ClientError ERR_DIRECTORY_UNSAFE; the system's error
   */
  static open(directory: string, onProblem: (error: unknown) => void): KnownContent {
    makePrivateDirectory(directory);
    const path = join(directory, FILE);
    try {
      return new KnownContent(path, openDatabase(path), onProblem);
    } catch {
      removeDatabase(path);
      return new KnownContent(path, openDatabase(path), onProblem);
    }
  }

  manifest(digest: Digest): KnownManifest | null {
    const row = this.#find<{ media_type: string; bytes: Buffer }>('manifests', digest);
    if (row === null || !matchesDigest(row.bytes, digest)) return null;
    return { mediaType: row.media_type, bytes: row.bytes };
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
    const row = this.#find<{ bytes: Buffer; is_proven: number }>('tables', digest);
    if (row === null) return null;
    try {
      return { table: decodeChunkTable(row.bytes), isProven: row.is_proven === 1 };
    } catch (error) {
      this.#failed(error);
      this.dropTable(digest);
      return null;
    }
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
    this.#attempt(() => this.#database.prepare('DELETE FROM tables WHERE digest = ?').run(digest));
  }

  isPublic(target: MirrorTarget, digest: Digest): boolean {
    const query = 'SELECT name FROM public WHERE name = ?';
    return this.#attempt(() => this.#database.prepare(query).get(nameOf(target, digest))) !== undefined;
  }

  putPublic(target: MirrorTarget, digest: Digest): void {
    this.#put('INSERT OR REPLACE INTO public (name, used_at) VALUES (?, ?)', [nameOf(target, digest)]);
  }

  close(): void {
    this.#database.close();
  }

  #find<Row>(table: 'manifests' | 'tables', digest: Digest): Row | null {
    const query = `SELECT * FROM ${table} WHERE digest = ?`;
    const row = this.#attempt(() => this.#database.prepare<[string], Row>(query).get(digest));
    if (row === undefined) return null;
    const use = `UPDATE ${table} SET used_at = ? WHERE digest = ?`;
    this.#attempt(() => this.#database.prepare(use).run(Date.now(), digest));
    return row;
  }

  #put(statement: string, values: readonly (string | number | Buffer)[]): void {
    this.#attempt(() => {
      this.#database.prepare(statement).run(...values, Date.now());
      if (++this.#puts % PUTS_PER_CLEANING === 0) this.#clean();
      this.#isWell = true;
    });
  }

  /** Undefined if it fails: whoever asks goes on without. */
  #attempt<T>(work: () => T): T | undefined {
    try {
      return work();
    } catch (error) {
      this.#failed(error);
      if (isDamage(error)) this.#beginAnew();
      return undefined;
    }
  }

  #failed(error: unknown): void {
    if (this.#isWell) this.#onProblem(error);
    this.#isWell = false;
  }

  #beginAnew(): void {
    try {
      this.#database.close();
      removeDatabase(this.#path);
      this.#database = openDatabase(this.#path);
    } catch (error) {
      this.#failed(error);
    }
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

function isDamage(error: unknown): boolean {
  return error instanceof Database.SqliteError && /^SQLITE_(?:CORRUPT|NOTADB)/.test(error.code);
}

function removeDatabase(path: string): void {
  for (const ending of ['', '-wal', '-shm']) rmSync(`${path}${ending}`, { force: true });
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
