import { stat } from 'node:fs/promises';
import type { Logger } from 'pino';
import { unlessAborted } from '../../format/unless-aborted.ts';
import { type Digest, shortDigest } from '../../oci/digest.ts';
import { type Attachment, attachDevice, detachRemains, resumeAttachment } from '../attach/attachment.ts';
import { ClientError } from '../errors.ts';
import type { OpenDevice } from '../image/device.ts';
import type { LazyChain } from '../sources/lazy-chain.ts';
import { LateDevice } from './late-device.ts';
import { type MountPaths, type MountRecord, MountRecords } from './mount-records.ts';
import { imageName, type MountStatus } from './node-status.ts';
import { overlaysOn } from './overlay-users.ts';

export interface LazyMountsOptions {
  /** For the mounts; a short path, on a file system that a reboot empties. */
  readonly directory: string;
  /** Opens a chain's layers as one device. */
  readonly open: (chain: LazyChain, signal: AbortSignal) => Promise<OpenDevice>;
  /** How long a read may take before it fails with EIO. */
  readonly readTimeoutMs: number;
  readonly logger: Pick<Logger, 'info' | 'warn' | 'error'>;
  /** Told how a mount was that ends. */
  readonly onEnd: (status: MountStatus) => void;
}

interface Mounted {
  readonly chain: LazyChain;
  readonly paths: MountPaths;
  readonly device: LateDevice;
  readonly attachment: Attachment;
}

/** What is being done with a chain: one thing at a time. */
type Running =
  | { readonly kind: 'mount'; readonly done: Promise<string>; readonly waiters: Waiters }
  | { readonly kind: 'unmount'; readonly done: Promise<void> };

/** A device that fails fails often. */
const WARNING_INTERVAL_MS = 5_000;

/** Chains of converted layers, each mounted once whatever the number of its users; kept over a restart of the daemon. */
export class LazyMounts {
  readonly #options: LazyMountsOptions;
  readonly #records: MountRecords;
  readonly #mounted = new Map<Digest, Mounted>();
  readonly #running = new Map<Digest, Running>();
  #isClosed = false;

  private constructor(options: LazyMountsOptions) {
    this.#options = options;
    this.#records = new MountRecords(options.directory);
  }

  /**
   * Takes up all mounts that an earlier daemon left with their holders, without asking anybody: what it can no
   * longer open is opened when that is possible again. Cleans up what cannot be taken up; that is mounted anew when
   * somebody asks for it.
   */
  static async start(options: LazyMountsOptions): Promise<LazyMounts> {
    const mounts = new LazyMounts(options);
    const found = await mounts.#records.list();
    await Promise.all(
      found.map(({ paths, record }) =>
        mounts.#resume(paths, record).catch((error) => {
          options.logger.error(
            { err: error, directory: paths.directory },
            'cannot clean up an earlier mount',
          );
        }),
      ),
    );
    return mounts;
  }

  /**
   * The directory where the chain's root file system is mounted read-only; mounts it if it is not yet. Who asks for
   * the same chain meanwhile gets the same mount. The work is given up when all who wait for it have gone.
   * @throws ClientError, RegistryError, FormatError, SourceError; the signal's reason
   */
  async mount(chain: LazyChain, signal?: AbortSignal): Promise<string> {
    const { chainId } = chain;
    for (;;) {
      signal?.throwIfAborted();
      if (this.#isClosed) throw new ClientError('ERR_ATTACH_FAILED', 'the node daemon is stopping');
      const running = this.#running.get(chainId);
      if (running?.kind === 'mount' && !running.waiters.signal.aborted) {
        return running.waiters.wait(running.done, signal);
      }
      if (running !== undefined) {
        await unlessAborted(
          running.done.catch(() => {}),
          signal,
        );
        continue;
      }
      const mounted = this.#mounted.get(chainId);
      if (mounted !== undefined && (await isMounted(mounted.paths))) return mounted.paths.target;
      // Somebody else may have begun while we looked.
      if (this.#running.has(chainId)) continue;
      const waiters = new Waiters();
      const done = this.#mountAnew(chain, mounted ?? null, waiters.signal);
      this.#run(chainId, { kind: 'mount', done, waiters });
    }
  }

  /**
   * Unmounts, when nobody uses it any more; fine if it is not mounted.
   * @throws ClientError ERR_MOUNT_BUSY (it stays mounted), ERR_DETACH_FAILED
   */
  async unmount(chainId: Digest): Promise<void> {
    for (;;) {
      const running = this.#running.get(chainId);
      if (running?.kind === 'unmount') return running.done;
      if (running !== undefined) {
        await settled(running.done);
        continue;
      }
      const mounted = this.#mounted.get(chainId);
      if (mounted === undefined) return;
      this.#run(chainId, { kind: 'unmount', done: this.#takeDown(mounted, { force: false }) });
    }
  }

  /**
   * Unmounts all. Nothing is unmounted if containers use any, unless it is forced: then they get I/O errors.
   * @throws ClientError ERR_MOUNT_BUSY, ERR_DETACH_FAILED
   */
  async unmountAll({ force }: { readonly force: boolean }): Promise<void> {
    const all = [...this.#mounted.values()];
    if (!force) await refuseIfUsed(all.map(({ paths }) => paths.target));
    this.#isClosed = true;
    await this.#settled();
    const results = await Promise.allSettled(
      [...this.#mounted.values()].map((mounted) => this.#takeDown(mounted, { force })),
    );
    const failed = results.flatMap((result) => (result.status === 'rejected' ? [result.reason] : []));
    if (failed.length === 0) return;
    this.#isClosed = false;
    throw failed.length === 1
      ? failed[0]
      : new ClientError(
          'ERR_DETACH_FAILED',
          `${failed.length} of ${results.length} mounts could not be taken down`,
          {
            cause: new AggregateError(failed),
          },
        );
  }

  /** How each mount is. */
  status(): MountStatus[] {
    return Array.from(this.#mounted.values(), statusOf);
  }

  /** Stops serving, but leaves all mounts with their holders for the next daemon: reads wait for it. */
  async close(): Promise<void> {
    this.#isClosed = true;
    for (const running of this.#running.values()) if (running.kind === 'mount') running.waiters.giveUp();
    await this.#settled();
    await Promise.all(
      Array.from(this.#mounted.values(), async ({ attachment, device }) => {
        await attachment.release();
        await device.close();
      }),
    );
    this.#mounted.clear();
  }

  #run(chainId: Digest, running: Running): void {
    this.#running.set(chainId, running);
    const end = () => {
      this.#running.delete(chainId);
    };
    running.done.then(end, end);
  }

  async #settled(): Promise<void> {
    await Promise.allSettled(Array.from(this.#running.values(), ({ done }) => done));
  }

  async #mountAnew(chain: LazyChain, gone: Mounted | null, signal: AbortSignal): Promise<string> {
    // Unmounted behind our back.
    if (gone !== null) await this.#takeDown(gone, { force: false });
    const startMs = performance.now();
    const opened = await this.#options.open(chain, signal);
    const device = LateDevice.of(opened, this.#options.readTimeoutMs);
    const paths = this.#records.paths(chain.chainId);
    try {
      await this.#records.prepare(chain.chainId);
      await this.#records.write({ chain, sizeBytes: device.size, fsType: opened.fsType });
      const attachment = await attachDevice({
        ...this.#attachOptions(chain, paths),
        device,
        fsType: opened.fsType,
        signal,
      });
      this.#mounted.set(chain.chainId, { chain, paths, device, attachment });
      const tookMs = Math.round(performance.now() - startMs);
      this.#options.logger.info({ ...named(chain), method: attachment.method, tookMs }, 'mounted');
      return paths.target;
    } catch (error) {
      await this.#removeRemains(paths).catch((failure) => {
        this.#options.logger.error({ err: failure, ...named(chain) }, 'cannot clean up after a failed mount');
      });
      await device.close();
      throw error;
    }
  }

  async #takeDown(mounted: Mounted, { force }: { readonly force: boolean }): Promise<void> {
    const { chain, paths, attachment, device } = mounted;
    if (force) {
      await detachRemains(paths.workDirectory);
      await attachment.ended;
    } else await attachment.detach({ lazy: false });
    this.#mounted.delete(chain.chainId);
    this.#options.onEnd(statusOf(mounted));
    await device.close();
    await this.#records.remove(paths);
    this.#options.logger.info(named(chain), 'unmounted');
  }

  async #resume(paths: MountPaths, record: MountRecord | null): Promise<void> {
    if (record === null) return this.#removeRemains(paths);
    const { chain, sizeBytes, fsType } = record;
    const { logger, open, readTimeoutMs } = this.#options;
    const warn = rarely();
    const device = LateDevice.opening({
      sizeBytes,
      readTimeoutMs,
      open: (signal) => open(chain, signal),
      onOpenFailure: (error) =>
        warn(() => logger.warn({ err: error, ...named(chain) }, 'cannot open a mounted image; trying again')),
    });
    try {
      const attachment = await resumeAttachment({ ...this.#attachOptions(chain, paths), device, fsType });
      if (attachment !== null) {
        this.#mounted.set(chain.chainId, { chain, paths, device, attachment });
        logger.info(named(chain), 'took up the mount of an earlier daemon');
        return;
      }
    } catch (error) {
      logger.warn({ err: error, ...named(chain) }, 'cannot take up the mount of an earlier daemon');
    }
    await device.close();
    await this.#removeRemains(paths);
  }

  async #removeRemains(paths: MountPaths): Promise<void> {
    await detachRemains(paths.workDirectory);
    await this.#records.remove(paths);
  }

  #attachOptions(chain: LazyChain, { target, workDirectory }: MountPaths) {
    const warn = rarely();
    const onReadError = (error: unknown, offset: number, lengthBytes: number) =>
      warn(() =>
        this.#options.logger.warn({ err: error, ...named(chain), offset, lengthBytes }, 'a read failed: EIO'),
      );
    return { target, workDirectory, onReadError };
  }
}

/** Removes what daemons left that run no more, whoever uses it if that is forced. @throws ClientError ERR_MOUNT_BUSY, ERR_DETACH_FAILED */
export async function removeLeftMounts(
  directory: string,
  { force }: { readonly force: boolean },
): Promise<number> {
  const records = new MountRecords(directory);
  const found = await records.list();
  if (!force) await refuseIfUsed(found.map(({ paths }) => paths.target));
  for (const { paths } of found) {
    await detachRemains(paths.workDirectory);
    await records.remove(paths);
  }
  return found.length;
}

async function refuseIfUsed(targets: readonly string[]): Promise<void> {
  const used = await overlaysOn(targets);
  if (used.length === 0) return;
  throw new ClientError(
    'ERR_MOUNT_BUSY',
    `containers use what would be unmounted (${used.join(', ')}): stop them first, or force it, and they get I/O errors`,
  );
}

/** A file system is mounted there as long as it is another than its directory's. */
async function isMounted({ target, directory }: MountPaths): Promise<boolean> {
  const [mounted, below] = await Promise.all([stat(target), stat(directory)]).catch(() => []);
  return mounted !== undefined && below !== undefined && mounted.dev !== below.dev;
}

async function settled(done: Promise<unknown>): Promise<void> {
  await done.catch(() => {});
}

function statusOf({ chain, paths, device, attachment }: Mounted): MountStatus {
  return {
    chainId: chain.chainId,
    image: imageName(chain),
    target: paths.target,
    method: attachment.method,
    isOpen: device.opened !== null,
    layers: chain.layers.length,
    imageBytes: chain.layers.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0),
    ...device.use,
  };
}

function named(chain: LazyChain) {
  return { chain: shortDigest(chain.chainId), image: imageName(chain) };
}

/** Lets through one call in a while. */
function rarely(): (act: () => void) => void {
  let lastMs = Number.NEGATIVE_INFINITY;
  return (act) => {
    if (performance.now() - lastMs < WARNING_INTERVAL_MS) return;
    lastMs = performance.now();
    act();
  };
}

/** Those who wait for one mount: it is given up when there are none any more. */
class Waiters {
  readonly #abandoned = new AbortController();
  #count = 0;

  get signal(): AbortSignal {
    return this.#abandoned.signal;
  }

  giveUp(): void {
    this.#abandoned.abort(new ClientError('ERR_ATTACH_FAILED', 'the node daemon is stopping'));
  }

  async wait<T>(done: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
    this.#count++;
    try {
      return await unlessAborted(done, signal);
    } finally {
      this.#count--;
      if (this.#count === 0 && signal?.aborted) this.#abandoned.abort(signal?.reason);
    }
  }
}
