import { sql } from 'kysely';
import { StoreError } from './errors.ts';
import type { SqlDatabase } from './sql-database.ts';

/** How the two databases spell the same. */
interface Spelling {
  /** Of up to 2^53. */
  readonly integer: string;
  /** Compared and sorted by bytes. */
  readonly text: string;
  /** A number that the database gives to each row. */
  readonly id: string;
  /** Behind a table's columns. */
  readonly table: string;
  readonly tableWithId: string;
}

const SPELLINGS: Readonly<Record<SqlDatabase['kind'], Spelling>> = {
  sqlite: {
    integer: 'INTEGER',
    text: 'TEXT',
    id: 'INTEGER PRIMARY KEY',
    table: 'STRICT, WITHOUT ROWID',
    tableWithId: 'STRICT',
  },
  postgres: {
    integer: 'BIGINT',
    text: 'TEXT COLLATE "C"',
    id: 'BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY',
    table: '',
    tableWithId: '',
  },
};

/** Step n takes a catalog from version n to n + 1, statement by statement. Steps are never changed, only added. */
const MIGRATIONS: readonly ((is: Spelling) => readonly string[])[] = [
  (is) => [
    `CREATE TABLE manifests (
      digest ${is.text} PRIMARY KEY,
      media_type ${is.text} NOT NULL,
      size_bytes ${is.integer} NOT NULL
    ) ${is.table}`,
    `CREATE TABLE repositories (
      id ${is.id},
      upstream ${is.text} NOT NULL,
      name ${is.text} NOT NULL,
      UNIQUE (upstream, name)
    ) ${is.tableWithId}`,
    `CREATE TABLE links (
      repository ${is.integer} NOT NULL REFERENCES repositories (id) ON DELETE CASCADE,
      digest ${is.text} NOT NULL,
      PRIMARY KEY (repository, digest)
    ) ${is.table}`,
    `CREATE TABLE tags (
      repository ${is.integer} NOT NULL REFERENCES repositories (id) ON DELETE CASCADE,
      tag ${is.text} NOT NULL,
      digest ${is.text} NOT NULL,
      checked_at_ms ${is.integer} NOT NULL,
      PRIMARY KEY (repository, tag)
    ) ${is.table}`,
    `CREATE TABLE layers (
      chain_id ${is.text} NOT NULL,
      profile ${is.text} NOT NULL,
      blob_digest ${is.text} NOT NULL,
      blob_size_bytes ${is.integer} NOT NULL,
      chunk_table_digest ${is.text} NOT NULL,
      tar_size_bytes ${is.integer} NOT NULL,
      PRIMARY KEY (chain_id, profile)
    ) ${is.table}`,
    `CREATE TABLE conversions (
      digest ${is.text} NOT NULL,
      profile ${is.text} NOT NULL,
      kind ${is.text} NOT NULL CHECK (kind IN ('image', 'index')),
      state ${is.text} NOT NULL CHECK (state IN ('queued', 'running', 'done', 'failed')),
      priority ${is.integer} NOT NULL,
      not_before_ms ${is.integer} NOT NULL,
      upstream ${is.text} NOT NULL,
      repository ${is.text} NOT NULL,
      platform ${is.text},
      converted_digest ${is.text},
      converted_media_type ${is.text},
      converted_size_bytes ${is.integer},
      error ${is.text},
      layers_done ${is.integer} NOT NULL DEFAULT 0,
      layers_total ${is.integer} NOT NULL DEFAULT 0,
      bytes_done ${is.integer} NOT NULL DEFAULT 0,
      bytes_total ${is.integer} NOT NULL DEFAULT 0,
      created_at_ms ${is.integer} NOT NULL,
      updated_at_ms ${is.integer} NOT NULL,
      PRIMARY KEY (digest, profile)
    ) ${is.table}`,
    'CREATE INDEX conversions_by_turn ON conversions (profile, state, priority DESC, created_at_ms)',
    `CREATE TABLE conversion_children (
      parent ${is.text} NOT NULL,
      profile ${is.text} NOT NULL,
      child ${is.text} NOT NULL,
      PRIMARY KEY (parent, profile, child),
      FOREIGN KEY (parent, profile) REFERENCES conversions (digest, profile) ON DELETE CASCADE
    ) ${is.table}`,
  ],
  () => ['CREATE INDEX conversion_parents ON conversion_children (child, profile)'],
  (is) => [
    `ALTER TABLE conversions ADD COLUMN error_code ${is.text}`,
    `ALTER TABLE conversions ADD COLUMN policy ${is.text} NOT NULL DEFAULT ''`,
    `ALTER TABLE conversions ADD COLUMN attempts ${is.integer} NOT NULL DEFAULT 0`,
    `ALTER TABLE conversions ADD COLUMN interruptions ${is.integer} NOT NULL DEFAULT 0`,
    `ALTER TABLE conversions ADD COLUMN next_attempt_ms ${is.integer}`,
  ],
  (is) => [
    `ALTER TABLE conversions ADD COLUMN owner ${is.text}`,
    `ALTER TABLE conversions ADD COLUMN lease_until_ms ${is.integer} NOT NULL DEFAULT 0`,
    `CREATE TABLE leases (
      name ${is.text} PRIMARY KEY,
      owner ${is.text} NOT NULL,
      until_ms ${is.integer} NOT NULL
    ) ${is.table}`,
  ],
  (is) => [
    `CREATE TABLE blobs (
      digest ${is.text} PRIMARY KEY,
      size_bytes ${is.integer} NOT NULL,
      added_at_ms ${is.integer} NOT NULL,
      used_at_ms ${is.integer} NOT NULL,
      verified_at_ms ${is.integer} NOT NULL
    ) ${is.table}`,
    'CREATE INDEX blobs_by_use ON blobs (used_at_ms, digest)',
    'CREATE INDEX blobs_by_check ON blobs (verified_at_ms, digest)',
    `CREATE TABLE manifest_parts (
      manifest ${is.text} NOT NULL,
      part ${is.text} NOT NULL,
      PRIMARY KEY (manifest, part)
    ) ${is.table}`,
    'CREATE INDEX manifests_by_part ON manifest_parts (part)',
    'CREATE INDEX links_by_digest ON links (digest)',
    'CREATE INDEX tags_by_digest ON tags (digest)',
    'CREATE INDEX layers_by_blob ON layers (blob_digest)',
    'CREATE INDEX layers_by_chunk_table ON layers (chunk_table_digest)',
    'CREATE INDEX conversions_by_result ON conversions (converted_digest)',
  ],
  (is) => [
    `ALTER TABLE conversions ADD COLUMN started_at_ms ${is.integer}`,
    `ALTER TABLE conversions ADD COLUMN converted_layer_bytes ${is.integer} NOT NULL DEFAULT 0`,
  ],
];

/** Replicas that start together take turns. Any number will do, as long as nobody else uses it. */
const MIGRATION_LOCK = 1_684_104_297;

/** Brings a catalog to this version's schema, or rejects with ERR_STORE_VERSION if it is from a later one. */
export async function migrate(database: SqlDatabase): Promise<void> {
  await database.transaction(async (inside) => {
    if (inside.kind === 'postgres') {
      await inside.write(sql`SELECT pg_advisory_xact_lock(${MIGRATION_LOCK})`);
      await inside.write(sql`CREATE TABLE IF NOT EXISTS schema_version (version INTEGER NOT NULL)`);
    }
    const version = await versionOf(inside);
    if (version > MIGRATIONS.length) {
      throw new StoreError(
        'ERR_STORE_VERSION',
        `the catalog has schema version ${version}, this program knows ${MIGRATIONS.length}: run a newer one`,
      );
    }
    if (version === MIGRATIONS.length) return;
    for (const step of MIGRATIONS.slice(version)) {
      for (const statement of step(SPELLINGS[inside.kind])) await inside.write(sql.raw(statement));
    }
    await setVersion(inside, MIGRATIONS.length);
  });
}

async function versionOf(database: SqlDatabase): Promise<number> {
  if (database.kind === 'sqlite') {
    return (await database.row(sql<{ user_version: number }>`PRAGMA user_version`))?.user_version ?? 0;
  }
  return (await database.row(sql<{ version: number }>`SELECT version FROM schema_version`))?.version ?? 0;
}

async function setVersion(database: SqlDatabase, version: number): Promise<void> {
  if (database.kind === 'sqlite') {
    await database.write(sql.raw(`PRAGMA user_version = ${version}`));
    return;
  }
  await database.write(sql`DELETE FROM schema_version`);
  await database.write(sql`INSERT INTO schema_version (version) VALUES (${version})`);
}
