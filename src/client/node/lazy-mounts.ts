import type { Logger } from 'pino';
import { unlessAborted } from '../../format/unless-aborted.ts';
import { type Digest, shortDigest } from '../../oci/digest.ts';
import {
  type Attachment,
  attachDevice,
  detachRemains,
  prepareMount,
  resumeAttachment,
  stayReadyToMount,
} from '../attach/attachment.ts';
import { listSystemMounts } from '../attach/linux-mount.ts';
import { ClientError } from '../errors.ts';
import type { OpenDevice } from '../image/device.ts';
import type { LazyChain } from '../sources/lazy-chain.ts';
import { LateDevice } from './late-device.ts';
import { LeftMounts } from './left-mounts.ts';
import { ifThere, type MountPaths, MountRecords } from './mount-records.ts';
import { refuseIfUsed } from './mount-users.ts';
import { MountWaiters } from './mount-waiters.ts';
import { imageName, type MountStatus } from './node-status.ts';

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
  /** False from when the kernel has let go of it, while not everything of it is taken down yet. */
  isServed: boolean;
}

/** What is being done with a chain: one thing at a time. */
type Running =
  | { readonly kind: 'mount'; readonly done: Promise<string>; readonly waiters: MountWaiters }
  | { readonly kind: 'unmount'; readonly done: Promise<void> };

/** A device that fails fails often. */
const WARNING_INTERVAL_MS = 5_000;

/** Chains of converted layers, each mounted once whatever the number of its users; kept over a restart of the daemon. */
export class LazyMounts {
  readonly #options: LazyMountsOptions;
  readonly #records: MountRecords;
  readonly #mounted = new Map<Digest, Mounted>();
  readonly #left = new LeftMounts((paths) => this.#takeUp(paths));
  readonly #running = new Map<Digest, Running>();
  #isClosed = false;

  private constructor(options: LazyMountsOptions, records: MountRecords) {
    this.#options = options;
    this.#records = records;
  }

  /**
   * Takes up all mounts that an earlier daemon left with their holders, without asking anybody: what it can no
   * longer open is opened when that is possible again. Cleans up what nobody holds any more; that is mounted anew when
   * somebody asks for it. Where neither can be done now it is tried again, and the mount stays.
   */
  static async start(options: LazyMountsOptions): Promise<LazyMounts> {
    const mounts = new LazyMounts(options, await MountRecords.open(options.directory));
    stayReadyToMount();
    const found = await mounts.#records.list();
    await Promise.all(found.map((paths) => mounts.#takeUp(paths).catch(() => mounts.#left.add(paths))));
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
      if (mounted !== undefined && (await isThere(mounted))) return mounted.paths.target;
      // Somebody else may have begun while we looked.
      if (this.#running.has(chainId)) continue;
      const waiters = new MountWaiters();
      const done = this.#mount(chain, waiters.signal);
      this.#run(chainId, { kind: 'mount', done, waiters });
    }
  }

  /** Begins what a mount that is to come soon would wait for, whichever it is. */
  expectMount(): void {
    prepareMount();
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
      this.#run(chainId, { kind: 'unmount', done: this.#unmount(chainId) });
    }
  }

  /**
   * Unmounts all. Nothing is unmounted if containers use any, unless it is forced: then they get I/O errors.
   * @throws ClientError ERR_MOUNT_BUSY, ERR_DETACH_FAILED
   */
  async unmountAll({ force }: { readonly force: boolean }): Promise<void> {
    if (!force) await this.#refuseIfUsed();
    this.#isClosed = true;
    try {
      if (force) this.#giveUpMounting();
      await this.#settled();
      // What was being mounted may be in use by now.
      if (!force) await this.#refuseIfUsed();
      await this.#takeAllDown({ force });
    } catch (error) {
      this.#isClosed = false;
      throw error;
    }
  }

  /** How many mounts of an earlier daemon could not be taken up yet. */
  get left(): number {
    return this.#left.all.length;
  }

  /** How each mount is. */
  status(): MountStatus[] {
    return Array.from(this.#mounted.values(), statusOf);
  }

  /** Stops serving, but leaves all mounts with their holders for the next daemon: reads wait for it. */
  async close(): Promise<void> {
    this.#isClosed = true;
    this.#giveUpMounting();
    await this.#left.close();
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

  #giveUpMounting(): void {
    for (const running of this.#running.values()) if (running.kind === 'mount') running.waiters.giveUp();
  }

  async #settled(): Promise<void> {
    await Promise.allSettled(Array.from(this.#running.values(), ({ done }) => done));
  }

  #refuseIfUsed(): Promise<void> {
    const mounted = Array.from(this.#mounted.values(), ({ paths }) => paths);
    return refuseIfUsed([...mounted, ...this.#left.all].map(({ target }) => target));
  }

  async #takeAllDown(options: { readonly force: boolean }): Promise<void> {
    const left = await Promise.allSettled([this.#left.removeAll((paths) => this.#removeRemains(paths))]);
    const mounted = await Promise.allSettled(
      Array.from(this.#mounted.values(), (mounted) => this.#takeDown(mounted, options)),
    );
    const failed = [...left, ...mounted].flatMap((result) =>
      result.status === 'rejected' ? [result.reason] : [],
    );
    if (failed.length === 0) return;
    if (failed.length === 1) throw failed[0];
    throw new ClientError('ERR_DETACH_FAILED', `${failed.length} mounts could not be taken down`, {
      cause: new AggregateError(failed),
    });
  }

  async #mount(chain: LazyChain, signal: AbortSignal): Promise<string> {
    const paths = this.#records.paths(chain.chainId);
    await this.#left.takeUp(paths);
    const earlier = this.#mounted.get(chain.chainId);
    if (earlier !== undefined) {
      if (await isThere(earlier)) return paths.target;
      // Unmounted behind our back.
      await this.#takeDown(earlier, { force: false });
    }
    const startMs = performance.now();
    this.expectMount();
    const opened = await this.#options.open(chain, signal);
    const device = LateDevice.of(opened, this.#options.readTimeoutMs);
    try {
      await this.#records.prepare(chain.chainId);
      await this.#records.write({ chain, sizeBytes: device.size, fsType: opened.fsType });
      const attachment = await attachDevice({
        ...this.#attachOptions(chain, paths),
        device,
        fsType: opened.fsType,
        signal,
      });
      this.#add({ chain, paths, device, attachment, isServed: true });
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

  #add(mounted: Mounted): void {
    this.#mounted.set(mounted.chain.chainId, mounted);
    void this.#dropWhenEnded(mounted);
  }

  /** What somebody else took down is mounted no more: who asks for it next gets it anew. */
  async #dropWhenEnded(mounted: Mounted): Promise<void> {
    const { chain, attachment } = mounted;
    await settled(attachment.ended);
    mounted.isServed = false;
    for (;;) {
      const running = this.#running.get(chain.chainId);
      if (running === undefined) break;
      await settled(running.done);
    }
    if (this.#isClosed || this.#mounted.get(chain.chainId) !== mounted) return;
    this.#options.logger.warn(
      named(chain),
      'a mount was taken down by somebody else: its users get I/O errors',
    );
    const done = this.#takeDown(mounted, { force: false });
    this.#run(chain.chainId, { kind: 'unmount', done });
    await done.catch((error) =>
      this.#options.logger.error({ err: error, ...named(chain) }, 'cannot clean up after it'),
    );
  }

  async #unmount(chainId: Digest): Promise<void> {
    await this.#left.takeUp(this.#records.paths(chainId));
    const mounted = this.#mounted.get(chainId);
    if (mounted !== undefined) await this.#takeDown(mounted, { force: false });
  }

  async #takeDown(mounted: Mounted, { force }: { readonly force: boolean }): Promise<void> {
    const { chain, paths, attachment, device } = mounted;
    if (force) {
      await detachRemains(paths.workDirectory);
      // Nothing is left, whatever failed in between.
      await attachment.ended.catch(() => {});
    } else await attachment.detach({ lazy: false });
    this.#mounted.delete(chain.chainId);
    this.#options.onEnd(statusOf(mounted));
    await device.close();
    await this.#records.remove(paths);
    this.#options.logger.info(named(chain), 'unmounted');
  }

  /** Or cleans up, if nobody holds it any more. @throws ClientError ERR_ATTACH_FAILED: all is as it was */
  async #takeUp(paths: MountPaths): Promise<void> {
    try {
      if (!(await this.#resume(paths))) await this.#removeRemains(paths);
    } catch (cause) {
      const message = `cannot take up ${paths.target}, which an earlier daemon mounted; trying again`;
      this.#options.logger.error({ err: cause }, message);
      throw new ClientError('ERR_ATTACH_FAILED', message, { cause });
    }
  }

  async #resume(paths: MountPaths): Promise<boolean> {
    const record = await this.#records.read(paths);
    if (record === null) return false;
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
    let attachment: Attachment | null = null;
    try {
      attachment = await resumeAttachment({ ...this.#attachOptions(chain, paths), device, fsType });
    } finally {
      if (attachment === null) await device.close();
    }
    if (attachment === null) return false;
    this.#add({ chain, paths, device, attachment, isServed: true });
    logger.info(named(chain), 'took up the mount of an earlier daemon');
    return true;
  }

  async #removeRemains(paths: MountPaths): Promise<void> {
    await removeRemains(this.#records, paths);
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
  const records = await MountRecords.open(directory);
  const found = await records.list();
  if (!force) await refuseIfUsed(found.map(({ target }) => target));
  for (const paths of found) await removeRemains(records, paths);
  return found.length;
}

async function removeRemains(records: MountRecords, paths: MountPaths): Promise<void> {
  // Nothing was attached yet, or is any more, where there is no directory for it.
  await ifThere(detachRemains(paths.workDirectory));
  await records.remove(paths);
}

/** By the kernel's list of mounts. To look at the mount itself is a read, which this process answers and which may fail. */
async function isThere({ isServed, paths }: Mounted): Promise<boolean> {
  return isServed && (await listSystemMounts()).some(({ target }) => target === paths.target);
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
