import type { Logger } from 'pino';
import type { LazyChain } from '../sources/lazy-chain.ts';
import { SnapshotError } from './snapshot-error.ts';
import type { SnapshotStore } from './snapshot-store.ts';
import { Turns } from './turns.ts';

/** Mounts chains of converted layers, each once. */
export interface ChainMounter {
  /** The directory where the chain's root file system is mounted read-only; mounts it if it is not yet. */
  mount(chain: LazyChain, signal?: AbortSignal): Promise<string>;
  /** A mount is to come soon. */
  expectMount(): void;
  /** Unmounts, when nobody uses it any more; fine if it is not mounted. */
  unmount(chainId: LazyChain['chainId']): Promise<void>;
}

/**
 * Which chains are mounted follows from the snapshots in the database: those that an active snapshot or a view stands
 * on. So it is the same after a crash, and nobody has to count.
 */
export class ChainMounts {
  readonly #mounter: ChainMounter;
  readonly #store: SnapshotStore;
  readonly #logger: Logger;
  readonly #turns = new Turns();

  constructor(mounter: ChainMounter, store: SnapshotStore, logger: Logger) {
    this.#mounter = mounter;
    this.#store = store;
    this.#logger = logger;
  }

  /** A snapshot of some chain is to come soon. */
  expectMount(): void {
    this.#mounter.expectMount();
  }

  /**
   * Mounts a chain for a snapshot that is in the database.
   * @throws SnapshotError ERR_SNAPSHOT_UNAVAILABLE
   */
  mount(chain: LazyChain, signal: AbortSignal): Promise<string> {
    const work = async () => {
      // Before it is: a crash in between costs an unmounting of nothing.
      this.#store.noteMounted(chain.chainId);
      try {
        return await this.#mounter.mount(chain, signal);
      } catch (cause) {
        signal.throwIfAborted();
        const why = cause instanceof Error ? cause.message : cause;
        throw new SnapshotError(
          'ERR_SNAPSHOT_UNAVAILABLE',
          `cannot mount the layers up to ${chain.chainId} of ${chain.registry}/${chain.repository}: ${why}`,
          { cause },
        );
      }
    };
    return this.#turns.take(chain.chainId, work, signal);
  }

  /** Unmounts a chain if no snapshot uses it. What fails is tried again by the next clean-up. */
  release(chainId: LazyChain['chainId']): Promise<void> {
    return this.#turns.take(chainId, async () => {
      if (!this.#store.isMounted(chainId) || this.#store.isUsed(chainId)) return;
      try {
        await this.#mounter.unmount(chainId);
        this.#store.noteUnmounted(chainId);
      } catch (error) {
        this.#logger.warn({ err: error, chainId }, 'cannot unmount layers that no snapshot uses');
      }
    });
  }

  async releaseUnused(): Promise<void> {
    for (const chainId of this.#store.mountedChains()) await this.release(chainId);
  }
}
