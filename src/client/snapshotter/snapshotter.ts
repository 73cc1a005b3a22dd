import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import type { Logger } from 'pino';
import { diskUsage } from './disk-usage.ts';
import { SnapshotDirectories } from './snapshot-directories.ts';
import { SnapshotError } from './snapshot-error.ts';
import { parseFilters } from './snapshot-filter.ts';
import { mountOf } from './snapshot-mounts.ts';
import { type Snapshot, SnapshotStore, type Usage } from './snapshot-store.ts';
import type { Labels, Mount } from './snapshots-api.ts';
import { Turns } from './turns.ts';

const LABEL_FIELD = 'labels.';

/** What a snapshot is made from. */
export interface NewSnapshot {
  readonly key: string;
  /** Empty if it stands on nothing. */
  readonly parent: string;
  readonly labels: Labels;
}

/**
 * What containerd takes a snapshotter for (its package snapshots): snapshots stand on committed ones; active ones are
 * written to and committed, views only read. All errors that are a caller's are SnapshotErrors.
 */
export class Snapshotter {
  readonly #store: SnapshotStore;
  readonly #directories: SnapshotDirectories;
  readonly #logger: Logger;
  readonly #keys = new Turns();

  private constructor(store: SnapshotStore, directories: SnapshotDirectories, logger: Logger) {
    this.#store = store;
    this.#directories = directories;
    this.#logger = logger;
  }

  /**
   * Takes up what is in the state directory, or begins with nothing, and removes what a crash left.
   * @throws SnapshotError ERR_SNAPSHOTTER_IN_USE
   */
  static async open(stateDirectory: string, logger: Logger): Promise<Snapshotter> {
    await mkdir(stateDirectory, { recursive: true, mode: 0o700 });
    const store = SnapshotStore.open(join(stateDirectory, 'snapshots.db'));
    try {
      const directories = await SnapshotDirectories.open(join(stateDirectory, 'snapshots'));
      const snapshotter = new Snapshotter(store, directories, logger);
      store.skipIds(Math.max(0, ...(await directories.ids())));
      await snapshotter.cleanUp();
      await snapshotter.#forgetLost();
      return snapshotter;
    } catch (error) {
      store.close();
      throw error;
    }
  }

  close(): void {
    this.#store.close();
  }

  /** An active snapshot, and what has to be mounted to write to it. */
  prepare(wanted: NewSnapshot): Promise<Mount[]> {
    return this.#keys.take(wanted.key, () => this.#create('active', wanted));
  }

  /** A view of a committed snapshot, or of nothing, and what has to be mounted to read it. */
  view(wanted: NewSnapshot): Promise<Mount[]> {
    return this.#keys.take(wanted.key, () => this.#create('view', wanted));
  }

  mounts(key: string): Promise<Mount[]> {
    return this.#keys.take(key, async () => {
      const snapshot = this.#store.get(key);
      if (snapshot.kind !== 'committed') return this.#mountsOf(snapshot);
      throw new SnapshotError(
        'ERR_SNAPSHOT_STATE',
        `snapshot ${key} is committed: only a view of it can be mounted`,
      );
    });
  }

  commit(
    { key, name, labels }: { key: string; name: string; labels: Labels },
    signal?: AbortSignal,
  ): Promise<void> {
    return this.#keys.take(key, async () => {
      this.#store.checkFree(name);
      const { id } = this.#store.checkActive(key);
      this.#store.commit(key, name, await diskUsage(this.#directories.fs(id), signal), labels);
    });
  }

  remove(key: string): Promise<void> {
    return this.#keys.take(key, async () => {
      const { id } = this.#store.remove(key);
      await this.#removeDirectory(id);
    });
  }

  stat(key: string): Snapshot {
    return this.#store.get(key);
  }

  /**
   * Sets labels, the only thing that can be changed.
   * @param fields `labels` for all of them, `labels.NAME` for one; all if there are none
   */
  update(name: string, labels: Labels, fields: readonly string[]): Snapshot {
    const fixed = fields.find((field) => field !== 'labels' && !field.startsWith(LABEL_FIELD));
    if (fixed !== undefined) {
      throw new SnapshotError(
        'ERR_SNAPSHOT_ARGUMENT',
        `cannot update ${fixed} of snapshot ${name}: only labels change`,
      );
    }
    return this.#store.setLabels(name, (before) => {
      if (fields.length === 0 || fields.includes('labels')) return labels;
      const names = fields.map((field) => field.slice(LABEL_FIELD.length));
      return { ...before, ...Object.fromEntries(names.map((label) => [label, labels[label] ?? ''])) };
    });
  }

  /** The snapshots for which one of the filters holds, parents before children. */
  list(filters: readonly string[]): Snapshot[] {
    return this.#store.all().filter(parseFilters(filters));
  }

  /** What a snapshot takes on disk without those below it. */
  usage(key: string, signal?: AbortSignal): Promise<Usage> {
    return this.#keys.take(key, async () => {
      const { id, kind, usage } = this.#store.get(key);
      return kind === 'active' ? diskUsage(this.#directories.fs(id), signal) : usage;
    });
  }

  /** Removes the directories of snapshots that are no more. */
  async cleanUp(): Promise<void> {
    const ids = await this.#directories.ids();
    const known = new Set(this.#store.all().map(({ id }) => id));
    for (const id of ids) if (!known.has(id)) await this.#removeDirectory(id);
  }

  async #create(kind: 'active' | 'view', { key, parent, labels }: NewSnapshot): Promise<Mount[]> {
    const parentId = this.#store.checkParent(parent);
    this.#store.checkFree(key);
    const id = this.#store.reserveId();
    // What overlayfs shows of its root directory is that of the topmost layer.
    const owner = parentId === null ? null : await this.#directories.owner(parentId);
    const snapshot = await this.#directories.make(id, owner, () =>
      this.#store.create({ id, kind, name: key, parent, labels }),
    );
    return this.#mountsOf(snapshot);
  }

  #mountsOf({ id, kind }: Snapshot): Mount[] {
    const lower = this.#store.ancestors(id).map((ancestor) => this.#directories.fs(ancestor.id));
    const fs = this.#directories.fs(id);
    if (kind === 'active') return [mountOf({ upper: { fs, work: this.#directories.work(id) }, lower })];
    return [mountOf({ upper: null, lower: lower.length === 0 ? [fs] : lower })];
  }

  /** What fails is tried again by the next clean-up: the snapshot is gone all the same. */
  async #removeDirectory(id: number): Promise<void> {
    try {
      await this.#directories.remove(id);
    } catch (error) {
      this.#logger.warn({ err: error, snapshot: id }, 'cannot remove the directory of a removed snapshot');
    }
  }

  /** Forgets snapshots whose directories are gone, so that images are pulled again, as far as none stands on them. */
  async #forgetLost(): Promise<void> {
    const found = new Set(await this.#directories.ids());
    for (const { id, name } of this.#store.all().reverse()) {
      if (found.has(id)) continue;
      try {
        this.#store.remove(name);
        this.#logger.warn({ snapshot: name }, 'a snapshot is forgotten: its directory is gone');
      } catch (error) {
        this.#logger.error(
          { err: error, snapshot: name },
          'the directory of a snapshot that others stand on is gone',
        );
      }
    }
  }
}
