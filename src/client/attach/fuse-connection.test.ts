import { once } from 'node:events';
import type { Socket } from 'node:net';
import { constants } from 'node:os';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { afterEach, expect, test, vi } from 'vitest';
import { BufferSource } from '../../format/buffer-source.ts';
import type { BlockDevice } from '../nbd/nbd-connection.ts';
import { FuseConnection, type FuseExport } from './fuse-connection.ts';
import { Opcode, REPLY_HEADER_BYTES, REQUEST_HEADER_BYTES } from './fuse-protocol.ts';
import { socketPair } from './socket-pair.ts';

const PATIENT = { timeout: 30_000, interval: 10 };
const { EIO } = constants.errno;

const opened: FuseConnection[] = [];

afterEach(async () => {
  await Promise.all(opened.splice(0).map((connection) => connection.stop()));
});

interface Reply {
  readonly unique: bigint;
  readonly error: number;
  readonly body: string;
}

/** A connection, and the kernel's place at the other end of it. */
class Kernel {
  readonly connection: FuseConnection;
  readonly #socket: Socket;
  #bytes: Buffer = Buffer.alloc(0);

  constructor(served: FuseExport) {
    const pair = socketPair();
    this.#socket = pair.socket;
    this.#socket.on('error', () => {});
    this.#socket.on('data', (bytes) => {
      this.#bytes = Buffer.concat([this.#bytes, bytes]);
    });
    this.connection = new FuseConnection(pair.otherFd, served);
    opened.push(this.connection);
  }

  /** One at a time: a stream does not keep requests apart, as /dev/fuse does. */
  async asks(request: Buffer): Promise<void> {
    this.#socket.write(request);
    await vi.waitFor(() => expect(this.#socket.writableLength).toBe(0), PATIENT);
  }

  get replies(): Reply[] {
    const replies: Reply[] = [];
    for (let at = 0; at + REPLY_HEADER_BYTES <= this.#bytes.length; ) {
      const length = this.#bytes.readUInt32LE(at);
      replies.push({
        unique: this.#bytes.readBigUInt64LE(at + 8),
        error: Math.abs(this.#bytes.readInt32LE(at + 4)),
        body: this.#bytes.toString('latin1', at + REPLY_HEADER_BYTES, at + length),
      });
      at += length;
    }
    return replies;
  }
}

function request(opcode: number, unique: bigint, body = Buffer.alloc(0)): Buffer {
  const header = Buffer.alloc(REQUEST_HEADER_BYTES);
  header.writeUInt32LE(REQUEST_HEADER_BYTES + body.length, 0);
  header.writeUInt32LE(opcode, 4);
  header.writeBigUInt64LE(unique, 8);
  return Buffer.concat([header, body]);
}

function read(unique: bigint, offset: number, lengthBytes: number): Buffer {
  const body = Buffer.alloc(40);
  body.writeBigUInt64LE(BigInt(offset), 8);
  body.writeUInt32LE(lengthBytes, 16);
  return request(Opcode.READ, unique, body);
}

/** Reads of the first byte wait for ever, or until they are given up. */
class StuckSource extends BufferSource {
  waiting = 0;

  override async read(offset: number, target: Buffer, signal?: AbortSignal): Promise<void> {
    if (offset > 0) return super.read(offset, target);
    this.waiting++;
    await new Promise((_, reject) =>
      signal?.addEventListener('abort', () => reject(signal.reason), { once: true }),
    );
  }
}

test('what is still being read after a drain is answered with EIO, and nothing new is taken up', async () => {
  const device = new StuckSource(Buffer.from('what the device holds'));
  const kernel = new Kernel({ device });
  await kernel.asks(read(8n, 0, 4));
  await vi.waitFor(() => expect(device.waiting).toBe(1), PATIENT);
  await kernel.asks(read(10n, 5, 3));
  await vi.waitFor(() => expect(kernel.replies).toEqual([{ unique: 10n, error: 0, body: 'the' }]), PATIENT);
  await kernel.connection.drain(0);
  await kernel.asks(read(12n, 5, 3));
  await kernel.connection.stop();
  await vi.waitFor(
    () => expect(kernel.replies).toContainEqual({ unique: 8n, error: EIO, body: '' }),
    PATIENT,
  );
  expect(kernel.replies.map(({ unique }) => unique)).toEqual([10n, 8n]);
});

test('a drain takes up nothing when a read ends that had filled the bound of what is being read', async () => {
  const full = 64 * 1024 * 1024;
  const go = Promise.withResolvers<never>();
  const device: BlockDevice = { size: 2 * full, read: vi.fn(() => go.promise), close: async () => {} };
  const kernel = new Kernel({ device });
  await kernel.asks(read(8n, 0, full));
  await vi.waitFor(() => expect(device.read).toHaveBeenCalled(), PATIENT);
  await kernel.asks(read(10n, 0, 1));
  const draining = kernel.connection.drain(60_000);
  go.reject(new Error('no registry answers'));
  await draining;
  await vi.waitFor(() => expect(kernel.replies).toEqual([{ unique: 8n, error: EIO, body: '' }]), PATIENT);
  // Time for what must not happen.
  for (let i = 0; i < 20; i++) await nextTurn();
  expect(device.read).toHaveBeenCalledTimes(1);
});

test('what another process took and did not answer gets EIO, and what was taken since is answered', async () => {
  const kernel = new Kernel({ device: new BufferSource(Buffer.from('what the device holds')) });
  kernel.connection.failOlder();
  await kernel.asks(read(8n, 5, 3));
  await vi.waitFor(() => expect(kernel.replies).toHaveLength(4), PATIENT);
  await kernel.asks(read(10n, 9, 6));
  await vi.waitFor(() => expect(kernel.replies).toHaveLength(5), PATIENT);
  expect(kernel.replies).toEqual([
    { unique: 8n, error: 0, body: 'the' },
    ...[6n, 4n, 2n].map((unique) => ({ unique, error: EIO, body: '' })),
    { unique: 10n, error: 0, body: 'device' },
  ]);
});

test('a reply that the kernel does not take ends nothing: it is told of', async () => {
  const errors: unknown[] = [];
  const pair = socketPair();
  pair.socket.write(request(Opcode.GETATTR, 8n));
  pair.socket.destroy();
  await once(pair.socket, 'close');
  const connection = new FuseConnection(pair.otherFd, {
    device: new BufferSource(Buffer.alloc(9)),
    onReadError: (error) => errors.push(error),
  });
  await connection.ended;
  expect(errors).toEqual([expect.objectContaining({ code: 'EPIPE' })]);
});
