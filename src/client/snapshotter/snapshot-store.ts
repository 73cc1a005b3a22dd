import Database from 'better-sqlite3';
import { SnapshotError } from './snapshot-error.ts';
import type { Labels, SnapshotKind } from './snapshots-api.ts';

export interface Usage {
  readonly inodes: number;
  readonly sizeBytes: number;
}

/** A snapshot as it is kept. */
export interface Snapshot {
  /** Names its directory; never given to another. */
  readonly id: number;
  /** The key of an active snapshot or a view, the name of a committed one: one name space. */
  readonly name: string;
  readonly kind: SnapshotKind;
  /** Its parent's name, empty if it has none. */
  readonly parent: string;
  readonly labels: Labels;
  readonly createdAtMs: number;
  readonly updatedAtMs: number;
  /** Of a committed one, as it was committed. */
  readonly usage: Usage;
}

interface SnapshotRow {
  readonly id: number;
  readonly name: string;
  readonly kind: SnapshotKind;
  readonly parent: string | null;
  readonly labels: string;
  readonly created_at_ms: number;
  readonly updated_at_ms: number;
  readonly inodes: number;
  readonly size_bytes: number;
}

const SCHEMA = `
CREATE TABLE snapshots (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  name TEXT NOT NULL UNIQUE,
  kind TEXT NOT NULL CHECK (kind IN ('view', 'active', 'committed')),
  parent_id INTEGER REFERENCES snapshots (id) ON DELETE RESTRICT,
  labels TEXT NOT NULL,
  created_at_ms INTEGER NOT NULL,
  updated_at_ms INTEGER NOT NULL,
  inodes INTEGER NOT NULL DEFAULT 0,
  size_bytes INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX snapshots_by_parent ON snapshots (parent_id);
`;
const SCHEMA_VERSION = 1;

const SELECT = `
SELECT s.id, s.name, s.kind, p.name AS parent, s.labels, s.created_at_ms, s.updated_at_ms, s.inodes, s.size_bytes
FROM snapshots s LEFT JOIN snapshots p ON p.id = s.parent_id`;

/** The snapshots' metadata, in a file that one process at a time has open. Each change is on disk when it returns. */
export class SnapshotStore {
  readonly #database: Database.Database;
  #lastId: number;

  private constructor(database: Database.Database) {
    this.#database = database;
    const { last } = this.#get<{ last: number }>(
      'SELECT coalesce(max(seq), 0) AS last FROM sqlite_sequence',
    ) ?? { last: 0 };
    this.#lastId = last;
  }

  /** @throws SnapshotError ERR_SNAPSHOTTER_IN_USE */
  static open(path: string): SnapshotStore {
    const database = new Database(path, { timeout: 0 });
    try {
      database.pragma('locking_mode = EXCLUSIVE');
      database.pragma('journal_mode = WAL');
      // containerd's own metadata outlives a power cut, and would name snapshots that are not here.
      database.pragma('synchronous = FULL');
      database.pragma('foreign_keys = ON');
      database.transaction(() => createSchema(database, path)).exclusive();
      return new SnapshotStore(database);
    } catch (cause) {
      database.close();
      if (!(cause instanceof Database.SqliteError) || !cause.code.startsWith('SQLITE_BUSY')) throw cause;
      throw new SnapshotError(
        'ERR_SNAPSHOTTER_IN_USE',
        `${path} is in use by another process: stop it, or give this one another state directory`,
        { cause },
      );
    }
  }

  close(): void {
    this.#database.close();
  }

  /** @throws SnapshotError ERR_SNAPSHOT_NOT_FOUND */
  get(name: string): Snapshot {
    return toSnapshot(this.#row(name));
  }

  /** All of them, in the order in which they were made. */
  all(): Snapshot[] {
    return this.#all<SnapshotRow>(`${SELECT} ORDER BY s.id`).map(toSnapshot);
  }

  /** The snapshots that a snapshot stands on, its parent first. */
  ancestors(id: number): { readonly id: number }[] {
    return this.#all<{ id: number }>(
      `WITH RECURSIVE lineage (id, depth) AS (
        SELECT parent_id, 1 FROM snapshots WHERE id = ?
        UNION ALL SELECT s.parent_id, depth + 1 FROM lineage l JOIN snapshots s ON s.id = l.id
      )
      SELECT id FROM lineage WHERE id IS NOT NULL ORDER BY depth`,
      id,
    );
  }

  /** An id that no snapshot had, to prepare its directory before it is known. */
  reserveId(): number {
    return ++this.#lastId;
  }

  /** No id up to this one is given out: there is a directory with it. */
  skipIds(upTo: number): void {
    this.#lastId = Math.max(this.#lastId, upTo);
  }

  /** @throws SnapshotError ERR_SNAPSHOT_EXISTS, ERR_SNAPSHOT_NOT_FOUND or ERR_SNAPSHOT_ARGUMENT for the parent */
  create(snapshot: {
    readonly id: number;
    readonly kind: 'active' | 'view';
    readonly name: string;
    readonly parent: string;
    readonly labels: Labels;
  }): Snapshot {
    const { id, kind, name, parent, labels } = snapshot;
    return this.#transaction(() => {
      const parentId = this.checkParent(parent);
      this.checkFree(name);
      const nowMs = Date.now();
      this.#run(
        `INSERT INTO snapshots (id, name, kind, parent_id, labels, created_at_ms, updated_at_ms)
        VALUES (?, ?, ?, ?, ?, ?, ?)`,
        [id, name, kind, parentId, labelsText(labels), nowMs, nowMs],
      );
      return this.get(name);
    });
  }

  /**
   * The id of what may be a parent, null for none.
   * @throws SnapshotError ERR_SNAPSHOT_NOT_FOUND, ERR_SNAPSHOT_ARGUMENT
   */
  checkParent(name: string): number | null {
    if (name === '') return null;
    const { id, kind } = this.#row(name);
    if (kind === 'committed') return id;
    throw new SnapshotError('ERR_SNAPSHOT_ARGUMENT', `parent ${name} is not committed`);
  }

  /** @throws SnapshotError ERR_SNAPSHOT_EXISTS, ERR_SNAPSHOT_ARGUMENT */
  checkFree(name: string): void {
    if (name === '') throw new SnapshotError('ERR_SNAPSHOT_ARGUMENT', 'a snapshot needs a name');
    if (this.#find(name) === null) return;
    throw new SnapshotError('ERR_SNAPSHOT_EXISTS', `snapshot ${name} exists already`);
  }

  /**
   * An active snapshot becomes a committed one, of another name and with other labels.
   * @throws SnapshotError ERR_SNAPSHOT_EXISTS for the name, ERR_SNAPSHOT_NOT_FOUND, ERR_SNAPSHOT_STATE
   */
  commit(key: string, name: string, usage: Usage, labels: Labels): void {
    this.#transaction(() => {
      this.checkFree(name);
      const { id } = this.checkActive(key);
      const nowMs = Date.now();
      this.#run(
        `UPDATE snapshots SET name = ?, kind = 'committed', labels = ?, created_at_ms = ?, updated_at_ms = ?,
        inodes = ?, size_bytes = ? WHERE id = ?`,
        [name, labelsText(labels), nowMs, nowMs, usage.inodes, usage.sizeBytes, id],
      );
    });
  }

  /** @throws SnapshotError ERR_SNAPSHOT_NOT_FOUND, ERR_SNAPSHOT_STATE */
  checkActive(key: string): Snapshot {
    const snapshot = this.get(key);
    if (snapshot.kind === 'active') return snapshot;
    throw new SnapshotError('ERR_SNAPSHOT_STATE', `snapshot ${key} is ${snapshot.kind}, not active`);
  }

  /** @throws SnapshotError ERR_SNAPSHOT_NOT_FOUND */
  setLabels(name: string, change: (labels: Labels) => Labels): Snapshot {
    return this.#transaction(() => {
      const { id, labels } = this.get(name);
      this.#run('UPDATE snapshots SET labels = ?, updated_at_ms = ? WHERE id = ?', [
        labelsText(change(labels)),
        Date.now(),
        id,
      ]);
      return this.get(name);
    });
  }

  /** @throws SnapshotError ERR_SNAPSHOT_NOT_FOUND, ERR_SNAPSHOT_STATE if it has children */
  remove(name: string): Snapshot {
    return this.#transaction(() => {
      const snapshot = this.get(name);
      const child = this.#get<{ name: string }>(
        'SELECT name FROM snapshots WHERE parent_id = ?',
        snapshot.id,
      );
      if (child !== null) {
        throw new SnapshotError(
          'ERR_SNAPSHOT_STATE',
          `cannot remove snapshot ${name}: ${child.name} stands on it`,
        );
      }
      this.#run('DELETE FROM snapshots WHERE id = ?', [snapshot.id]);
      return snapshot;
    });
  }

  #row(name: string): SnapshotRow {
    const row = this.#find(name);
    if (row !== null) return row;
    throw new SnapshotError('ERR_SNAPSHOT_NOT_FOUND', `snapshot ${name} does not exist`);
  }

  #find(name: string): SnapshotRow | null {
    return this.#get<SnapshotRow>(`${SELECT} WHERE s.name = ?`, name);
  }

  #transaction<T>(work: () => T): T {
    return this.#database.transaction(work).immediate();
  }

  #get<Row>(query: string, ...values: readonly (string | number)[]): Row | null {
    return (this.#database.prepare(query).get(values) as Row | undefined) ?? null;
  }

  #all<Row>(query: string, ...values: readonly (string | number)[]): Row[] {
    return this.#database.prepare(query).all(values) as Row[];
  }

  #run(statement: string, values: readonly (string | number | null)[]): void {
    this.#database.prepare(statement).run(values);
  }
}

function createSchema(database: Database.Database, path: string): void {
  const version = database.pragma('user_version', { simple: true });
  if (version === SCHEMA_VERSION) return;
  if (version !== 0) {
    throw new Error(
      `${path} has schema version ${version}, this program knows ${SCHEMA_VERSION}: run a newer one`,
    );
  }
  database.exec(SCHEMA);
  database.pragma(`user_version = ${SCHEMA_VERSION}`);
}

function toSnapshot(row: SnapshotRow): Snapshot {
  return {
    id: row.id,
    name: row.name,
    kind: row.kind,
    parent: row.parent ?? '',
    labels: JSON.parse(row.labels) as Labels,
    createdAtMs: row.created_at_ms,
    updatedAtMs: row.updated_at_ms,
    usage: { inodes: row.inodes, sizeBytes: row.size_bytes },
  };
}

/** A label without a value is none. */
function labelsText(labels: Labels): string {
  return JSON.stringify(Object.fromEntries(Object.entries(labels).filter(([, value]) => value !== '')));
}
