import type { Database } from 'better-sqlite3';
import { StoreError } from './errors.ts';

/** Step n takes a catalog from user_version n to n + 1. Steps are never changed, only added. */
const MIGRATIONS: readonly string[] = [
  `
  CREATE TABLE manifests (
    digest TEXT PRIMARY KEY,
    media_type TEXT NOT NULL,
    size_bytes INTEGER NOT NULL
  ) STRICT, WITHOUT ROWID;

  CREATE TABLE repositories (
    id INTEGER PRIMARY KEY,
    upstream TEXT NOT NULL,
    name TEXT NOT NULL,
    UNIQUE (upstream, name)
  ) STRICT;

  CREATE TABLE links (
    repository INTEGER NOT NULL REFERENCES repositories (id) ON DELETE CASCADE,
    digest TEXT NOT NULL,
    PRIMARY KEY (repository, digest)
  ) STRICT, WITHOUT ROWID;

  CREATE TABLE tags (
    repository INTEGER NOT NULL REFERENCES repositories (id) ON DELETE CASCADE,
    tag TEXT NOT NULL,
    digest TEXT NOT NULL,
    checked_at_ms INTEGER NOT NULL,
    PRIMARY KEY (repository, tag)
  ) STRICT, WITHOUT ROWID;

  CREATE TABLE layers (
    chain_id TEXT NOT NULL,
    profile TEXT NOT NULL,
    blob_digest TEXT NOT NULL,
    blob_size_bytes INTEGER NOT NULL,
    chunk_table_digest TEXT NOT NULL,
    tar_size_bytes INTEGER NOT NULL,
    PRIMARY KEY (chain_id, profile)
  ) STRICT, WITHOUT ROWID;

  CREATE TABLE conversions (
    digest TEXT NOT NULL,
    profile TEXT NOT NULL,
    kind TEXT NOT NULL CHECK (kind IN ('image', 'index')),
    state TEXT NOT NULL CHECK (state IN ('queued', 'running', 'done', 'failed')),
    priority INTEGER NOT NULL,
    not_before_ms INTEGER NOT NULL,
    upstream TEXT NOT NULL,
    repository TEXT NOT NULL,
    platform TEXT,
    converted_digest TEXT,
    converted_media_type TEXT,
    converted_size_bytes INTEGER,
    error TEXT,
    layers_done INTEGER NOT NULL DEFAULT 0,
    layers_total INTEGER NOT NULL DEFAULT 0,
    bytes_done INTEGER NOT NULL DEFAULT 0,
    bytes_total INTEGER NOT NULL DEFAULT 0,
    created_at_ms INTEGER NOT NULL,
    updated_at_ms INTEGER NOT NULL,
    PRIMARY KEY (digest, profile)
  ) STRICT, WITHOUT ROWID;

  CREATE INDEX conversions_by_turn ON conversions (profile, state, priority DESC, created_at_ms);

  CREATE TABLE conversion_children (
    parent TEXT NOT NULL,
    profile TEXT NOT NULL,
    child TEXT NOT NULL,
    PRIMARY KEY (parent, profile, child),
    FOREIGN KEY (parent, profile) REFERENCES conversions (digest, profile) ON DELETE CASCADE
  ) STRICT, WITHOUT ROWID;
  `,
  `
  CREATE INDEX conversion_parents ON conversion_children (child, profile);
  `,
  `
  ALTER TABLE conversions ADD COLUMN error_code TEXT;
  ALTER TABLE conversions ADD COLUMN policy TEXT NOT NULL DEFAULT '';
  ALTER TABLE conversions ADD COLUMN attempts INTEGER NOT NULL DEFAULT 0;
  ALTER TABLE conversions ADD COLUMN interruptions INTEGER NOT NULL DEFAULT 0;
  ALTER TABLE conversions ADD COLUMN next_attempt_ms INTEGER;
  `,
];

/** Brings a catalog to this version's schema, or throws ERR_STORE_VERSION if it is from a later one. */
export function migrate(database: Database): void {
  const version = Number(database.pragma('user_version', { simple: true }));
  if (version > MIGRATIONS.length) {
    throw new StoreError(
      'ERR_STORE_VERSION',
      `${database.name} has schema version ${version}, this program knows ${MIGRATIONS.length}: run a newer one`,
    );
  }
  for (const [step, sql] of MIGRATIONS.entries()) {
    if (step < version) continue;
    database.transaction(() => {
      database.exec(sql);
      database.pragma(`user_version = ${step + 1}`);
    })();
  }
}
