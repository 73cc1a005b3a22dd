import { realpath, stat } from 'node:fs/promises';
import type { Server } from 'node:http';
import { pid } from 'node:process';
import { type Attachment, attachDevice, detachRemains } from '../attach/attachment.ts';
import { identifyProcess } from '../attach/processes.ts';
import { ChunkCache } from '../chunks/chunk-cache.ts';
import { ClientError } from '../errors.ts';
import type { ConversionProgress } from '../image/conversion-wait.ts';
import { type OpenDevice, openDevice } from '../image/device.ts';
import type { ConvertedImage } from '../image/image.ts';
import { openImage } from '../image/image-source.ts';
import type { RegistryImageOptions } from '../image/registry-image.ts';
import { NbdServer } from '../nbd/nbd-server.ts';
import { type MountStats, serveControl } from './mount-control.ts';
import { mountId, mountPaths } from './mount-paths.ts';
import { claimMount, type MountState, removeState, writeState } from './mount-state.ts';
import { withRunLock } from './run-lock.ts';
import { removeDeadMounts } from './unmount.ts';

export interface MountOptions {
  readonly image: Omit<RegistryImageOptions, 'onProgress' | 'signal'>;
  /** What to mount on. */
  readonly directory: string;
  readonly cacheDirectory: string;
  readonly runDirectory: string;
  readonly readTimeoutMs?: number;
}

export interface MountHooks {
  readonly onProgress?: (progress: ConversionProgress) => void;
  /** Something went wrong that does not end the mount. */
  readonly onWarning?: (message: string, error: unknown) => void;
  /** Gives up the start. */
  readonly signal?: AbortSignal;
}

/** A device that fails fails often. */
const WARNING_INTERVAL_MS = 1_000;

/** A mounted image, held by this process. */
export class MountHolder {
  /** Resolves once everything is taken down. */
  readonly ended: Promise<MountStats>;
  readonly #runDirectory: string;
  readonly #hooks: MountHooks;
  readonly #startMs = performance.now();
  readonly #end = Promise.withResolvers<MountStats>();
  #state: MountState;
  #image: ConvertedImage | null = null;
  #opened: OpenDevice | null = null;
  #cache: ChunkCache | null = null;
  #nbd: NbdServer | null = null;
  #attachment: Attachment | null = null;
  #control: Server | null = null;
  #isClosing = false;
  #stopping: Promise<MountStats> | null = null;
  #lastWarningMs = Number.NEGATIVE_INFINITY;

  private constructor(runDirectory: string, state: MountState, hooks: MountHooks) {
    this.#runDirectory = runDirectory;
    this.#state = state;
    this.#hooks = hooks;
    this.ended = this.#end.promise;
  }

  /**
   * Opens an image and mounts it. Cleans up before what crashed mounts left in the run directory, and after
   * itself if it fails.
   * @throws ClientError, RegistryError, OciError, FormatError, SourceError; the signal's reason
   */
  static async start(options: MountOptions, hooks: MountHooks = {}): Promise<MountHolder> {
    const directory = await checkedTarget(options.directory);
    const state: MountState = {
      id: mountId(directory),
      process: (await identifyProcess(pid)) ?? { pid, startTime: 0 },
      status: 'starting',
      image: options.image.reference,
      manifestDigest: null,
      directory,
      fsType: null,
      method: null,
      deviceBytes: null,
      startedAt: new Date().toISOString(),
    };
    await withRunLock(options.runDirectory, async () => {
      await removeDeadMounts(options.runDirectory, (id, error) =>
        hooks.onWarning?.(`cannot remove the dead mount ${id}`, error),
      );
      await claimMount(options.runDirectory, state);
    });
    const holder = new MountHolder(options.runDirectory, state, hooks);
    try {
      await holder.#start(options);
      return holder;
    } catch (error) {
      await holder.#giveUp().catch((failure) => hooks.onWarning?.('cannot clean up', failure));
      throw error;
    }
  }

  get state(): MountState {
    return this.#state;
  }

  stats(): MountStats {
    const layers = this.#image?.layers ?? [];
    return {
      requests: 0,
      chunksFetched: 0,
      bytesFetched: 0,
      cacheHits: 0,
      bytesRead: 0,
      ...this.#opened?.stats,
      imageBytes: layers.reduce((sum, layer) => sum + layer.sizeBytes, 0),
      deviceBytes: this.#opened?.device.size ?? 0,
      clients: this.#nbd?.connections ?? 0,
      uptimeMs: Math.round(performance.now() - this.#startMs),
    };
  }

  /**
   * Unmounts. Resolves when the directory is free: then, or for a lazy stop when the last user of the image is
   * gone, {@link ended} resolves. After a failure it may be called again.
   * @throws ClientError ERR_MOUNT_BUSY (then all stays as it is), ERR_DETACH_FAILED
   */
  stop(options: { readonly lazy: boolean }): Promise<MountStats> {
    this.#stopping ??= this.#stop(options.lazy).catch((error) => {
      this.#stopping = null;
      throw error;
    });
    return this.#stopping;
  }

  async #start(options: MountOptions): Promise<void> {
    const { signal, onProgress } = this.#hooks;
    const waiting = signal === undefined ? {} : { signal };
    const paths = mountPaths(this.#runDirectory, this.#state.id);
    const image = await openImage({ ...options.image, ...waiting, ...(onProgress && { onProgress }) });
    this.#image = image;
    const cache = await ChunkCache.open(options.cacheDirectory, {
      onWriteError: (error) =>
        this.#hooks.onWarning?.('the chunk cache takes no more; going on without it', error),
    });
    this.#cache = cache;
    const { readTimeoutMs } = options;
    const opened = await openDevice(image, { cache, ...waiting, ...(readTimeoutMs && { readTimeoutMs }) });
    this.#opened = opened;
    const { device, fsType } = opened;
    const onReadError = (error: unknown, offset: number, length: number) =>
      this.#warn(`cannot read ${length} bytes at ${offset} of the device`, error);
    this.#nbd = await NbdServer.listen({ device, socketPath: paths.nbdSocket, onReadError });
    const attachment = await attachDevice({
      device,
      workDirectory: paths.workDirectory,
      fsType,
      target: this.#state.directory,
      // Nobody takes up again what this process had mounted.
      whenKilled: 'fail',
      onReadError,
      ...waiting,
    });
    this.#attachment = attachment;
    void attachment.ended.then(
      () => this.#close(),
      (error) => {
        this.#hooks.onWarning?.('cannot clean up', error);
        return this.#close();
      },
    );
    this.#control = await serveControl(paths.controlSocket, this);
    signal?.throwIfAborted();
    const { manifestDigest } = image;
    const { method } = attachment;
    await this.#note({ status: 'mounted', manifestDigest, fsType, method, deviceBytes: device.size });
  }

  async #stop(lazy: boolean): Promise<MountStats> {
    await this.#attachment?.detach({ lazy });
    const stats = this.stats();
    if (this.#isClosing) await this.ended;
    // The users of a lazily freed directory are served until they leave it.
    else await this.#note({ status: 'detaching' });
    return stats;
  }

  /** Of what did not start. */
  async #giveUp(): Promise<void> {
    if (this.#attachment === null) return this.#close();
    await detachRemains(mountPaths(this.#runDirectory, this.#state.id).workDirectory);
    await this.ended;
  }

  async #close(): Promise<void> {
    this.#isClosing = true;
    await this.#nbd?.close();
    await this.#opened?.close();
    await this.#cache?.close();
    await this.#image?.close();
    this.#control?.close();
    await withRunLock(this.#runDirectory, () => removeState(this.#runDirectory, this.#state.id));
    this.#end.resolve(this.stats());
  }

  async #note(change: Partial<MountState>): Promise<void> {
    this.#state = { ...this.#state, ...change };
    await writeState(this.#runDirectory, this.#state);
  }

  #warn(message: string, error: unknown): void {
    const nowMs = performance.now();
    if (nowMs - this.#lastWarningMs < WARNING_INTERVAL_MS) return;
    this.#lastWarningMs = nowMs;
    this.#hooks.onWarning?.(message, error);
  }
}

async function checkedTarget(directory: string): Promise<string> {
  try {
    const path = await realpath(directory);
    if ((await stat(path)).isDirectory()) return path;
  } catch (cause) {
    throw new ClientError('ERR_MOUNT_TARGET', `there is no directory ${directory} to mount on`, { cause });
  }
  throw new ClientError('ERR_MOUNT_TARGET', `${directory} is not a directory`);
}
