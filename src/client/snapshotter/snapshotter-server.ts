import { once } from 'node:events';
import { chmod, rm } from 'node:fs/promises';
import { connect } from 'node:net';
import {
  Server,
  ServerCredentials,
  type ServerUnaryCall,
  type ServerWritableStream,
  type sendUnaryData,
  status,
} from '@grpc/grpc-js';
import type { Logger } from 'pino';
import type { ChainLookup } from '../sources/chain-lookup.ts';
import type { ChainMounter } from './chain-mounts.ts';
import { SnapshotError, type SnapshotErrorCode } from './snapshot-error.ts';
import type { Snapshot } from './snapshot-store.ts';
import {
  type CommitRequest,
  type InfoMessage,
  type InfoResponse,
  type KeyRequest,
  type ListRequest,
  type ListResponse,
  type MountsResponse,
  type PrepareRequest,
  SNAPSHOTS_SERVICE,
  type UpdateRequest,
  type UsageResponse,
} from './snapshots-api.ts';
import { Snapshotter } from './snapshotter.ts';

export interface SnapshotterOptions {
  /** A unix socket, as containerd's proxy plugin names it. */
  readonly socketPath: string;
  /** Snapshots and what is known of them; of one process at a time, on a file system that overlayfs can write to. */
  readonly stateDirectory: string;
  /** Tells which layers can be read lazily. */
  readonly lookup: ChainLookup;
  /** Mounts them. */
  readonly mounts: ChainMounter;
  /** How long the pull of an image waits for the conversion of its layers, all together; then it is unpacked. */
  readonly conversionWaitMs: number;
  readonly logger: Logger;
}

/** containerd's own bound (its package defaults). */
const MAX_MESSAGE_BYTES = 16 << 20;
const INFOS_PER_MESSAGE = 100;
/** Calls that still run then are cut off: containerd makes them again. */
const CLOSE_GRACE_MS = 10_000;

/** As containerd's package errdefs reads them. */
const STATUS: Readonly<Record<SnapshotErrorCode, status>> = {
  ERR_SNAPSHOT_NOT_FOUND: status.NOT_FOUND,
  ERR_SNAPSHOT_EXISTS: status.ALREADY_EXISTS,
  ERR_SNAPSHOT_STATE: status.FAILED_PRECONDITION,
  ERR_SNAPSHOT_ARGUMENT: status.INVALID_ARGUMENT,
  ERR_SNAPSHOT_UNAVAILABLE: status.UNAVAILABLE,
  ERR_SNAPSHOTTER_IN_USE: status.UNAVAILABLE,
};

/** containerd's snapshots service over gRPC on a unix socket. */
export class SnapshotterServer {
  readonly #server: Server;
  readonly #snapshotter: Snapshotter;
  readonly #logger: Logger;
  readonly #stopping: AbortController;
  readonly #running = new Set<Promise<unknown>>();
  #closed: Promise<void> | null = null;

  private constructor(snapshotter: Snapshotter, stopping: AbortController, logger: Logger) {
    this.#snapshotter = snapshotter;
    this.#stopping = stopping;
    this.#logger = logger;
    this.#server = new Server({
      'grpc.max_receive_message_length': MAX_MESSAGE_BYTES,
      'grpc.max_send_message_length': MAX_MESSAGE_BYTES,
    });
    this.#server.addService(SNAPSHOTS_SERVICE, this.#handlers());
  }

  /**
   * Takes up the state directory and listens. A socket that nobody answers on is replaced.
   * @throws SnapshotError ERR_SNAPSHOTTER_IN_USE
   */
  static async start(options: SnapshotterOptions): Promise<SnapshotterServer> {
    const { socketPath, logger } = options;
    const stopping = new AbortController();
    const snapshotter = await Snapshotter.open({ ...options, stopping: stopping.signal });
    const server = new SnapshotterServer(snapshotter, stopping, logger);
    try {
      await removeStaleSocket(socketPath);
      await server.#listen(socketPath);
    } catch (error) {
      await server.close();
      throw error;
    }
    return server;
  }

  /**
   * Ends after the calls that run, and removes the socket; what is mounted stays. Pulls that wait for a conversion go
   * on without it. May be called again.
   */
  close(): Promise<void> {
    this.#closed ??= this.#close();
    return this.#closed;
  }

  async #listen(socketPath: string): Promise<void> {
    await new Promise<void>((resolve, reject) => {
      this.#server.bindAsync(`unix:${socketPath}`, ServerCredentials.createInsecure(), (error) =>
        error === null ? resolve() : reject(error),
      );
    });
    // Whoever can make snapshots can read every image.
    await chmod(socketPath, 0o600);
  }

  async #close(): Promise<void> {
    this.#stopping.abort();
    const timer = setTimeout(() => this.#server.forceShutdown(), CLOSE_GRACE_MS);
    await new Promise<void>((resolve) => this.#server.tryShutdown(() => resolve()));
    clearTimeout(timer);
    await Promise.all(this.#running);
    await this.#snapshotter.close();
  }

  #handlers() {
    const snapshotter = this.#snapshotter;
    return {
      Prepare: this.#unary<PrepareRequest, MountsResponse>(async (request, signal) => ({
        mounts: await snapshotter.prepare(request, signal),
      })),
      View: this.#unary<PrepareRequest, MountsResponse>(async (request, signal) => ({
        mounts: await snapshotter.view(request, signal),
      })),
      Mounts: this.#unary<KeyRequest, MountsResponse>(async ({ key }, signal) => ({
        mounts: await snapshotter.mounts(key, signal),
      })),
      Commit: this.#unary<CommitRequest, object>(async (request, signal) => {
        await snapshotter.commit(request, signal);
        return {};
      }),
      Remove: this.#unary<KeyRequest, object>(async ({ key }) => {
        await snapshotter.remove(key);
        return {};
      }),
      Stat: this.#unary<KeyRequest, InfoResponse>(async ({ key }) => ({
        info: toMessage(snapshotter.stat(key)),
      })),
      Update: this.#unary<UpdateRequest, InfoResponse>(async ({ info, update_mask: mask }) => ({
        info: toMessage(snapshotter.update(info?.name ?? '', info?.labels ?? {}, mask?.paths ?? [])),
      })),
      Usage: this.#unary<KeyRequest, UsageResponse>(async ({ key }, signal) => {
        const { sizeBytes, inodes } = await snapshotter.usage(key, signal);
        return { size: sizeBytes, inodes };
      }),
      Cleanup: this.#unary<object, object>(async () => {
        await snapshotter.cleanUp();
        return {};
      }),
      List: (call: ServerWritableStream<ListRequest, ListResponse>) => {
        this.#track(this.#list(call));
      },
    };
  }

  #unary<Request, Response>(handle: (request: Request, signal: AbortSignal) => Promise<Response>) {
    return (call: ServerUnaryCall<Request, Response>, answer: sendUnaryData<Response>) => {
      const { signal } = cancellation(call);
      const handled = handle(call.request, signal).then(
        (response) => answer(null, response),
        (error: unknown) => answer(this.#toStatus(error, call.getPath(), signal)),
      );
      this.#track(handled);
    };
  }

  async #list(call: ServerWritableStream<ListRequest, ListResponse>): Promise<void> {
    const { signal } = cancellation(call);
    try {
      const snapshots = this.#snapshotter.list(call.request.filters);
      for (let start = 0; start < snapshots.length; start += INFOS_PER_MESSAGE) {
        const info = snapshots.slice(start, start + INFOS_PER_MESSAGE).map(toMessage);
        if (!call.write({ info })) await once(call, 'drain', { signal });
      }
      call.end();
    } catch (error) {
      call.emit('error', this.#toStatus(error, call.getPath(), signal));
    }
  }

  #track(work: Promise<unknown>): void {
    const tracked = work.finally(() => this.#running.delete(tracked));
    this.#running.add(tracked);
  }

  #toStatus(error: unknown, path: string, signal: AbortSignal): { code: status; details: string } {
    if (error instanceof SnapshotError) return { code: STATUS[error.code], details: error.message };
    if (signal.aborted) return { code: status.CANCELLED, details: 'the call was cancelled' };
    this.#logger.error({ err: error, call: path }, 'a call of the snapshots API failed');
    return { code: status.INTERNAL, details: error instanceof Error ? error.message : String(error) };
  }
}

/** Aborted when the caller hangs up, or its time is over. */
function cancellation(call: { on(event: 'cancelled', listener: () => void): unknown }): AbortController {
  const controller = new AbortController();
  call.on('cancelled', () => controller.abort());
  return controller;
}

async function removeStaleSocket(path: string): Promise<void> {
  const socket = connect(path);
  try {
    await once(socket, 'connect');
  } catch {
    await rm(path, { force: true });
    return;
  } finally {
    socket.destroy();
  }
  throw new SnapshotError('ERR_SNAPSHOTTER_IN_USE', `another process listens on ${path}`);
}

function toMessage(snapshot: Snapshot): InfoMessage {
  const { name, parent, kind, createdAtMs, updatedAtMs, labels } = snapshot;
  return {
    name,
    parent,
    kind: kind === 'view' ? 'VIEW' : kind === 'active' ? 'ACTIVE' : 'COMMITTED',
    created_at: toTimestamp(createdAtMs),
    updated_at: toTimestamp(updatedAtMs),
    labels,
  };
}

function toTimestamp(timeMs: number): { seconds: number; nanos: number } {
  return { seconds: Math.floor(timeMs / 1000), nanos: (timeMs % 1000) * 1_000_000 };
}
