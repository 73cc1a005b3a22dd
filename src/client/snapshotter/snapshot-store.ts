import Database from 'better-sqlite3';
import type { Digest } from '../../oci/digest.ts';
import type { LazyChain } from '../sources/lazy-chain.ts';
import { REF_LABEL } from './layer-decision.ts';
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
  /** Whether it is converted layers, with all that is below it; else what it holds is in its directory. */
  readonly isLazy: boolean;
  /** The chain of converted layers that it stands on, or is; null if there is none. */
  readonly chainId: Digest | null;
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
  readonly is_lazy: number;
  readonly chain_id: Digest | null;
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
  size_bytes INTEGER NOT NULL DEFAULT 0,
  -- Of a lazy one: what the runtime calls the layer, and the converted layers (LazyChain, as JSON).
  ref TEXT,
  chain TEXT,
  -- Of a lazy one and of all that stand on it.
  chain_id TEXT,
  CHECK ((ref IS NULL) = (chain IS NULL))
) STRICT;
CREATE INDEX snapshots_by_parent ON snapshots (parent_id);
CREATE INDEX snapshots_by_chain ON snapshots (chain_id) WHERE kind <> 'committed';
CREATE UNIQUE INDEX snapshots_by_ref ON snapshots (ref, ifnull(parent_id, 0)) WHERE ref IS NOT NULL;
CREATE TABLE mounted_chains (chain_id TEXT PRIMARY KEY) STRICT, WITHOUT ROWID;
`;
const SCHEMA_VERSION = 1;

const SELECT = `
SELECT s.id, s.name, s.kind, p.name AS parent, s.labels, s.created_at_ms, s.updated_at_ms, s.inodes, s.size_bytes,
  s.ref IS NOT NULL AS is_lazy, s.chain_id
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
    let database: Database.Database | null = null;
    try {
      database = new Database(path, { timeout: 0 });
      database.pragma('locking_mode = EXCLUSIVE');
      database.pragma('journal_mode = WAL');
      // containerd's own metadata outlives a power cut, and would name snapshots that are not here.
      database.pragma('synchronous = FULL');
      database.pragma('foreign_keys = ON');
      database.transaction(createSchema).exclusive(database);
      return new SnapshotStore(database);
    } catch (cause) {
      database?.close();
      if (cause instanceof Database.SqliteError && cause.code.startsWith('SQLITE_BUSY')) {
        throw new SnapshotError(
          'ERR_SNAPSHOTTER_IN_USE',
          `${path} is in use by another process: stop it, or give this one another state directory`,
          { cause },
        );
      }
      const why = cause instanceof Error ? cause.message : cause;
      throw new Error(`cannot open the snapshots' database ${path}: ${why}`, { cause });
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

  /**
   * The snapshots that a snapshot stands on, its parent first, down to the first lazy one: that has all below it.
   * `chain` is null for those that have a directory.
   */
  ancestors(id: number): { readonly id: number; readonly chain: LazyChain | null }[] {
    const rows = this.#all<{ id: number; chain: string | null }>(
      `WITH RECURSIVE lineage (id, parent_id, chain, depth) AS (
        SELECT id, parent_id, NULL, 0 FROM snapshots WHERE id = ?
        UNION ALL
        SELECT s.id, s.parent_id, s.chain, depth + 1
        FROM lineage l JOIN snapshots s ON s.id = l.parent_id WHERE l.chain IS NULL
      )
      SELECT id, chain FROM lineage WHERE depth > 0 ORDER BY depth`,
      id,
    );
    return rows.map(({ id, chain }) => ({ id, chain: chain === null ? null : JSON.parse(chain) }));
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
      const below = this.checkParent(parent);
      this.checkFree(name);
      const nowMs = Date.now();
      this.#run(
        `INSERT INTO snapshots (id, name, kind, parent_id, labels, created_at_ms, updated_at_ms, chain_id)
        VALUES (?, ?, ?, ?, ?, ?, ?, ?)`,
        [id, name, kind, below?.id ?? null, labelsText(labels), nowMs, nowMs, below?.chainId ?? null],
      );
      return this.get(name);
    });
  }

  /**
   * A committed snapshot of converted layers, which needs no directory.
   * @throws SnapshotError ERR_SNAPSHOT_EXISTS if the parent has that layer on it already
   */
  createLazy(snapshot: {
    readonly ref: string;
    readonly parent: string;
    readonly labels: Labels;
    readonly chain: LazyChain;
  }): Snapshot {
    const { ref, parent, labels, chain } = snapshot;
    return this.#transaction(() => {
      const below = this.checkParent(parent);
      this.checkNotLazy(ref, below);
      const id = this.reserveId();
      const name = `dadi/${id}/${ref}`;
      const nowMs = Date.now();
      this.#run(
        `INSERT INTO snapshots
        (id, name, kind, parent_id, labels, created_at_ms, updated_at_ms, ref, chain, chain_id)
        VALUES (?, ?, 'committed', ?, ?, ?, ?, ?, ?, ?)`,
        [
          id,
          name,
          below?.id ?? null,
          labelsText(labels),
          nowMs,
          nowMs,
          ref,
          JSON.stringify(chain),
          chain.chainId,
        ],
      );
      return this.get(name);
    });
  }

  /**
   * @param parent as {@link checkParent} gives it
   * @throws SnapshotError ERR_SNAPSHOT_EXISTS if there is a lazy snapshot of a layer on that parent
   */
  checkNotLazy(ref: string, parent: Snapshot | null): void {
    const found = this.#get(
      'SELECT 1 FROM snapshots WHERE ref = ? AND ifnull(parent_id, 0) = ?',
      ref,
      parent?.id ?? 0,
    );
    if (found === null) return;
    throw new SnapshotError('ERR_SNAPSHOT_EXISTS', `layer ${ref} is there already, to be read lazily`);
  }

  /**
   * What may be a parent, null for none.
   * @throws SnapshotError ERR_SNAPSHOT_NOT_FOUND, ERR_SNAPSHOT_ARGUMENT
   */
  checkParent(name: string): Snapshot | null {
    if (name === '') return null;
    const snapshot = this.get(name);
    if (snapshot.kind === 'committed') return snapshot;
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
      const { id, labels, isLazy } = this.get(name);
      const changed = change(labels);
      // By this label containerd finds what it is told exists.
      const kept = isLazy ? { ...changed, [REF_LABEL]: labels[REF_LABEL] ?? '' } : changed;
      this.#run('UPDATE snapshots SET labels = ?, updated_at_ms = ? WHERE id = ?', [
        labelsText(kept),
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

  /** Remembers that a chain may be mounted from now on. */
  noteMounted(chainId: Digest): void {
    if (!this.isMounted(chainId)) this.#run('INSERT INTO mounted_chains VALUES (?)', [chainId]);
  }

  noteUnmounted(chainId: Digest): void {
    this.#run('DELETE FROM mounted_chains WHERE chain_id = ?', [chainId]);
  }

  isMounted(chainId: Digest): boolean {
    return this.#get('SELECT 1 FROM mounted_chains WHERE chain_id = ?', chainId) !== null;
  }

  mountedChains(): Digest[] {
    return this.#all<{ chain_id: Digest }>('SELECT chain_id FROM mounted_chains').map((row) => row.chain_id);
  }

  /** Whether an active snapshot or a view stands on a chain. */
  isUsed(chainId: Digest): boolean {
    return this.#get(`SELECT 1 FROM snapshots WHERE chain_id = ? AND kind <> 'committed'`, chainId) !== null;
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

  #get<Row = object>(query: string, ...values: readonly (string | number)[]): Row | null {
    return (this.#database.prepare(query).get(values) as Row | undefined) ?? null;
  }

  #all<Row>(query: string, ...values: readonly (string | number)[]): Row[] {
    return this.#database.prepare(query).all(values) as Row[];
  }

  #run(statement: string, values: readonly (string | number | null)[]): void {
    this.#database.prepare(statement).run(values);
  }
}

function createSchema(database: Database.Database): void {
  const version = database.pragma('user_version', { simple: true });
  if (version === SCHEMA_VERSION) return;
  if (version !== 0) {
    throw new Error(
      `it has schema version ${version}, this program knows ${SCHEMA_VERSION}: run a newer one`,
    );
  }
  database.exec(SCHEMA);
  database.pragma(`user_version = ${SCHEMA_VERSION}`);
}

function toSnapshot(row: SnapshotRow): Snapshot {
  return {
    id: row.id,
    isLazy: row.is_lazy === 1,
    chainId: row.chain_id,
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
