import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import type { Logger } from 'pino';
import type { ChainLookup } from '../sources/chain-lookup.ts';
import { type ChainMounter, ChainMounts } from './chain-mounts.ts';
import { diskUsage } from './disk-usage.ts';
import { LayerDecisions, type WantedLayer, wantedLayer } from './layer-decision.ts';
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

export interface SnapshotterParts {
  readonly stateDirectory: string;
  readonly lookup: ChainLookup;
  readonly mounts: ChainMounter;
  /** How long the pull of an image waits for the conversion of its layers, all together. */
  readonly conversionWaitMs: number;
  readonly logger: Logger;
  /** Ends waiting for conversions. */
  readonly stopping: AbortSignal;
}

/**
 * What containerd takes a snapshotter for (its package snapshots): snapshots stand on committed ones; active ones are
 * written to and committed, views only read. All errors that are a caller's are SnapshotErrors.
 */
export class Snapshotter {
  readonly #store: SnapshotStore;
  readonly #directories: SnapshotDirectories;
  readonly #decisions: LayerDecisions;
  readonly #chains: ChainMounts;
  readonly #logger: Logger;
  readonly #keys = new Turns();
  #cleaning: Promise<void> = Promise.resolve();

  private constructor(store: SnapshotStore, directories: SnapshotDirectories, parts: SnapshotterParts) {
    this.#store = store;
    this.#directories = directories;
    this.#decisions = new LayerDecisions(parts);
    this.#chains = new ChainMounts(parts.mounts, store, parts.logger);
    this.#logger = parts.logger;
  }

  /**
   * Takes up what is in the state directory, or begins with nothing. What a crash left is removed meanwhile: containers
   * need not wait for that.
   * @throws SnapshotError ERR_SNAPSHOTTER_IN_USE
   */
  static async open(parts: SnapshotterParts): Promise<Snapshotter> {
    await mkdir(parts.stateDirectory, { recursive: true, mode: 0o700 });
    const store = SnapshotStore.open(join(parts.stateDirectory, 'snapshots.db'));
    try {
      const directories = await SnapshotDirectories.open(join(parts.stateDirectory, 'snapshots'));
      const snapshotter = new Snapshotter(store, directories, parts);
      store.skipIds(Math.max(0, ...(await directories.ids())));
      await snapshotter.#forgetLost();
      snapshotter.#cleaning = snapshotter.#cleanUpAtStart();
      return snapshotter;
    } catch (error) {
      store.close();
      throw error;
    }
  }

  async close(): Promise<void> {
    await this.#cleaning;
    this.#store.close();
  }

  /**
   * An active snapshot, and what has to be mounted to write to it.
   * @throws SnapshotError ERR_SNAPSHOT_EXISTS, too, if it is to take a layer that is there now, to be read lazily:
   *   containerd then looks for a committed snapshot with the layer's label, and downloads nothing
   */
  prepare(wanted: NewSnapshot, signal: AbortSignal): Promise<Mount[]> {
    const work = async () => {
      const layer = wantedLayer(wanted.labels);
      if (layer !== null) await this.#takeLazily(layer, wanted, signal);
      return this.#create('active', wanted, signal);
    };
    return this.#keys.take(wanted.key, work, signal);
  }

  /** A view of a committed snapshot, or of nothing, and what has to be mounted to read it. */
  view(wanted: NewSnapshot, signal: AbortSignal): Promise<Mount[]> {
    return this.#keys.take(wanted.key, () => this.#create('view', wanted, signal), signal);
  }

  /** What has to be mounted for an active snapshot or a view, whatever a restart has unmounted. */
  mounts(key: string, signal: AbortSignal): Promise<Mount[]> {
    return this.#keys.take(key, async () => {
      const snapshot = this.#store.get(key);
      if (snapshot.kind !== 'committed') return [this.#mount(snapshot, await this.#lower(snapshot, signal))];
      throw new SnapshotError(
        'ERR_SNAPSHOT_STATE',
        `snapshot ${key} is committed: only a view of it can be mounted`,
      );
    });
  }

  commit(
    { key, name, labels }: { key: string; name: string; labels: Labels },
    signal: AbortSignal,
  ): Promise<void> {
    return this.#keys.take(key, async () => {
      this.#store.checkFree(name);
      const { id, chainId } = this.#store.checkActive(key);
      this.#store.commit(key, name, await diskUsage(this.#directories.fs(id), signal), labels);
      if (chainId !== null) await this.#chains.release(chainId);
    });
  }

  remove(key: string): Promise<void> {
    return this.#keys.take(key, async () => this.#clear(this.#store.remove(key)));
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
  async usage(key: string, signal: AbortSignal): Promise<Usage> {
    const { id, kind, usage } = this.#store.get(key);
    if (kind !== 'active') return usage;
    // Takes its time, in which others may commit or remove the snapshot.
    const counted = await diskUsage(this.#directories.fs(id), signal);
    this.#store.get(key);
    return counted;
  }

  /** Removes the directories of snapshots that are no more, and unmounts what none uses. */
  async cleanUp(): Promise<void> {
    const ids = await this.#directories.ids();
    const known = new Set(this.#store.all().map(({ id }) => id));
    for (const id of ids) if (!known.has(id)) await this.#removeDirectory(id);
    await this.#chains.releaseUnused();
  }

  /** @throws SnapshotError ERR_SNAPSHOT_EXISTS once the layer is there, lazily; returns if it has to be unpacked */
  async #takeLazily(
    layer: WantedLayer,
    { key, parent, labels }: NewSnapshot,
    signal: AbortSignal,
  ): Promise<void> {
    this.#store.checkFree(key);
    this.#store.checkNotLazy(layer.ref, this.#store.checkParent(parent));
    const decision = await this.#decisions.decide(layer, signal);
    if (decision.kind === 'ordinary') return;
    this.#chains.expectMount();
    const { name } = this.#store.createLazy({ ref: layer.ref, parent, labels, chain: decision.chain });
    throw new SnapshotError('ERR_SNAPSHOT_EXISTS', `layer ${layer.ref} is read lazily, by snapshot ${name}`);
  }

  async #create(
    kind: 'active' | 'view',
    { key, parent, labels }: NewSnapshot,
    signal: AbortSignal,
  ): Promise<Mount[]> {
    this.#store.checkParent(parent);
    this.#store.checkFree(key);
    const id = this.#store.reserveId();
    const snapshot = await this.#directories.make(id, () =>
      this.#store.create({ id, kind, name: key, parent, labels }),
    );
    try {
      const lower = await this.#lower(snapshot, signal);
      // What overlayfs shows of its root directory is that of the topmost layer.
      if (lower[0] !== undefined) await this.#directories.own(id, lower[0]);
      return [this.#mount(snapshot, lower)];
    } catch (error) {
      await this.#clear(this.#store.remove(key));
      throw error;
    }
  }

  /** The directories below a snapshot, the topmost first; mounts the converted layers among them. */
  #lower({ id }: Snapshot, signal: AbortSignal): Promise<string[]> {
    const below = this.#store.ancestors(id);
    return Promise.all(
      below.map(({ id, chain }) =>
        chain === null ? this.#directories.fs(id) : this.#chains.mount(chain, signal),
      ),
    );
  }

  #mount({ id, kind }: Snapshot, lower: readonly string[]): Mount {
    const fs = this.#directories.fs(id);
    if (kind === 'active') return mountOf({ upper: { fs, work: this.#directories.work(id) }, lower });
    return mountOf({ upper: null, lower: lower.length === 0 ? [fs] : lower });
  }

  /** Clears away what a snapshot had that is no longer in the database. */
  async #clear({ id, isLazy, chainId }: Snapshot): Promise<void> {
    if (!isLazy) await this.#removeDirectory(id);
    if (chainId !== null) await this.#chains.release(chainId);
  }

  async #cleanUpAtStart(): Promise<void> {
    try {
      await this.cleanUp();
    } catch (error) {
      this.#logger.error({ err: error }, 'cannot remove what an earlier crash may have left');
    }
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
    for (const { id, name, isLazy } of this.#store.all().reverse()) {
      if (isLazy || found.has(id)) continue;
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
