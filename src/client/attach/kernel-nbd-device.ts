import { readdir, readFile } from 'node:fs/promises';
import { isSystemError } from '../../format/error-code.ts';
import { encodeAttributes, type NetlinkAttribute, NetlinkFamily } from './netlink.ts';

/*
 * linux/nbd-netlink.h: the kernel's NBD client, made and changed by messages of the generic netlink family "nbd".
 * The backend identifier, a string of our choice, is what a device is found by: Linux >= 5.14.
 */
const FAMILY = 'nbd';
const VERSION = 1;

const Command = { CONNECT: 1, DISCONNECT: 2, RECONFIGURE: 3 } as const;

const Attribute = {
  INDEX: 1,
  SIZE_BYTES: 2,
  BLOCK_SIZE_BYTES: 3,
  TIMEOUT: 4,
  SERVER_FLAGS: 5,
  CLIENT_FLAGS: 6,
  SOCKETS: 7,
  DEAD_CONN_TIMEOUT: 8,
  BACKEND_IDENTIFIER: 10,
} as const;
const SOCKET_ITEM = 1;
const SOCKET_FD = 1;

/** NBD_FLAG_HAS_FLAGS | NBD_FLAG_READ_ONLY */
const SERVER_FLAGS = 3n;
const CLIENT_FLAG_DISCONNECT_ON_CLOSE = 2n;
/** EROFS and ext4 ask for larger ones themselves; ext4 may have blocks of 1 KiB. */
const BLOCK_BYTES = 512n;

export interface KernelNbdOptions {
  readonly sizeBytes: number;
  /** One end of a stream, of which the other speaks NBD's transmission phase. */
  readonly socketFd: number;
  readonly backend: string;
  /** What is not answered within that is asked again on the next connection. */
  readonly requestTimeoutSeconds: number;
  /** How long reads wait for the next connection when one is lost. */
  readonly reconnectTimeoutSeconds: number;
}

export function connectAttributes(options: KernelNbdOptions): NetlinkAttribute[] {
  return [
    u64(Attribute.SIZE_BYTES, BigInt(options.sizeBytes)),
    u64(Attribute.BLOCK_SIZE_BYTES, BLOCK_BYTES),
    u64(Attribute.SERVER_FLAGS, SERVER_FLAGS),
    u64(Attribute.TIMEOUT, BigInt(options.requestTimeoutSeconds)),
    u64(Attribute.DEAD_CONN_TIMEOUT, BigInt(options.reconnectTimeoutSeconds)),
    sockets(options.socketFd),
    backendIdentifier(options.backend),
  ];
}

export function reconnectAttributes(index: number, backend: string, socketFd: number): NetlinkAttribute[] {
  return [u32(Attribute.INDEX, index), sockets(socketFd), backendIdentifier(backend)];
}

export function disconnectOnCloseAttributes(index: number, backend: string): NetlinkAttribute[] {
  return [
    u32(Attribute.INDEX, index),
    u64(Attribute.CLIENT_FLAGS, CLIENT_FLAG_DISCONNECT_ON_CLOSE),
    backendIdentifier(backend),
  ];
}

/** One NBD device of the kernel, found by its backend identifier. */
export class KernelNbdDevice {
  readonly path: string;
  readonly #family: NetlinkFamily;
  readonly #index: number;
  readonly #backend: string;

  private constructor(family: NetlinkFamily, index: number, backend: string) {
    this.path = `/dev/nbd${index}`;
    this.#family = family;
    this.#index = index;
    this.#backend = backend;
  }

  /** Connects a device that the kernel finds free, or makes. Null on a kernel without NBD. @throws SystemCallError */
  static async connect(options: KernelNbdOptions): Promise<KernelNbdDevice | null> {
    const family = await NetlinkFamily.find(FAMILY, VERSION);
    if (family === null) return null;
    const answer = await family.ask(Command.CONNECT, connectAttributes(options));
    const index = answer.get(Attribute.INDEX)?.readUInt32LE(0);
    if (index === undefined) throw new Error('the kernel does not say which NBD device it has connected');
    return new KernelNbdDevice(family, index, options.backend);
  }

  /** The connected device with that backend identifier, whoever connected it; null if there is none. */
  static async find(backend: string): Promise<KernelNbdDevice | null> {
    // Readable also where nothing may be asked by netlink.
    for (const name of await readdir('/sys/block')) {
      const index = /^nbd(\d+)$/.exec(name)?.[1];
      if (index === undefined || (await backendOf(name)) !== backend) continue;
      const family = await NetlinkFamily.find(FAMILY, VERSION);
      return family && new KernelNbdDevice(family, Number(index), backend);
    }
    return null;
  }

  /** Gives the kernel another stream instead of the one that was lost. @throws SystemCallError ENOSPC if none was */
  async reconnect(socketFd: number): Promise<void> {
    const attributes = reconnectAttributes(this.#index, this.#backend, socketFd);
    await this.#family.ask(Command.RECONFIGURE, attributes);
  }

  /** From here on the kernel disconnects the device itself when its last user is gone. @throws SystemCallError */
  async disconnectOnClose(): Promise<void> {
    await this.#family.ask(Command.RECONFIGURE, disconnectOnCloseAttributes(this.#index, this.#backend));
  }

  /** Ends the device whoever uses it: they get I/O errors. @throws SystemCallError */
  async disconnect(): Promise<void> {
    await this.#family.ask(Command.DISCONNECT, [u32(Attribute.INDEX, this.#index)]);
  }

  /** Whether the kernel still has it connected for us. */
  async isConnected(): Promise<boolean> {
    return (await backendOf(`nbd${this.#index}`)) === this.#backend;
  }
}

/** Null if it is not connected: the file is there while it is. Other failures say nothing of that. */
async function backendOf(name: string): Promise<string | null> {
  try {
    return (await readFile(`/sys/block/${name}/backend`, 'utf8')).trimEnd();
  } catch (error) {
    if (isSystemError(error, 'ENOENT', 'ENODEV')) return null;
    throw error;
  }
}

function u32(type: number, value: number): NetlinkAttribute {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value);
  return { type, value: bytes };
}

function u64(type: number, value: bigint): NetlinkAttribute {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64LE(value);
  return { type, value: bytes };
}

function sockets(fd: number): NetlinkAttribute {
  const item = { type: SOCKET_ITEM, value: encodeAttributes([u32(SOCKET_FD, fd)]), isNested: true };
  return { type: Attribute.SOCKETS, value: encodeAttributes([item]), isNested: true };
}

function backendIdentifier(backend: string): NetlinkAttribute {
  return { type: Attribute.BACKEND_IDENTIFIER, value: Buffer.from(`${backend}\0`) };
}
