/**
 * The kernel's FUSE protocol (linux/fuse.h), as far as a file system needs it that is one read-only file: its root.
 * Integers are little-endian, as on all machines that Node.js runs on.
 */

/** The newest minor version that all here is written for; what came later is not asked for. */
const MINOR_VERSION = 38;
const MAJOR_VERSION = 7;

export const REQUEST_HEADER_BYTES = 40;
export const REPLY_HEADER_BYTES = 16;
export const REPLY_UNIQUE_AT = 8;
/** No request that such a file system gets is longer: the kernel refuses to read into less (FUSE_MIN_READ_BUFFER). */
export const REQUEST_BUFFER_BYTES = 8192;
/** The longest read: 256 pages, what kernels allow. */
export const MAX_READ_BYTES = 1024 * 1024;
const PAGE_BYTES = 4096;
const SECTOR_BYTES = 512;

/** enum fuse_opcode */
export const Opcode = {
  FORGET: 2,
  GETATTR: 3,
  OPEN: 14,
  READ: 15,
  STATFS: 17,
  RELEASE: 18,
  INIT: 26,
  INTERRUPT: 36,
  DESTROY: 38,
  BATCH_FORGET: 42,
} as const;

const InitFlag = { ASYNC_READ: 1 << 0, ASYNC_DIO: 1 << 15, MAX_PAGES: 1 << 22 } as const;
const INIT_EXTENDED = 1 << 30;
const INIT_FLAGS2_HAS_RESEND = 1 << 7;
const OPEN_KEEP_CACHE = 1 << 1;
const NOTIFY_RESEND = 7;
const ROOT_INODE = 1n;
const S_IFREG = 0o100000;
/** Attributes never change. */
const VALID_SECONDS = 0x7fff_ffff;

/** A request; `unique` goes into its reply as it is. */
export type FuseRequest =
  | {
      readonly kind: 'init';
      readonly unique: bigint;
      readonly major: number;
      readonly minor: number;
      /** Whether the kernel sends requests again that were read and never answered (Linux >= 6.9). */
      readonly canResend: boolean;
    }
  | {
      readonly kind: 'read';
      readonly unique: bigint;
      /** Bytes. */
      readonly offset: number;
      readonly lengthBytes: number;
      /** The reading thread, 0 if this pid namespace does not see it. */
      readonly threadId: number;
    }
  | { readonly kind: 'getattr' | 'open' | 'release' | 'statfs' | 'destroy'; readonly unique: bigint }
  /** A signal came for who waits for the request `interrupted`. */
  | { readonly kind: 'interrupt'; readonly unique: bigint; readonly interrupted: bigint }
  /** Wants no reply. */
  | { readonly kind: 'forget' }
  | { readonly kind: 'unknown'; readonly unique: bigint; readonly opcode: number };

/** Decodes one request. Null if the bytes are none. */
export function decodeRequest(bytes: Buffer): FuseRequest | null {
  if (bytes.length < REQUEST_HEADER_BYTES || bytes.readUInt32LE(0) !== bytes.length) return null;
  const opcode = bytes.readUInt32LE(4);
  const unique = bytes.readBigUInt64LE(8);
  const bodyBytes = bytes.length - REQUEST_HEADER_BYTES;
  switch (opcode) {
    case Opcode.READ:
      if (bodyBytes < 20) return null;
      return {
        kind: 'read',
        unique,
        offset: Number(bytes.readBigUInt64LE(48)),
        lengthBytes: bytes.readUInt32LE(56),
        threadId: bytes.readUInt32LE(32),
      };
    case Opcode.INIT:
      if (bodyBytes < 8) return null;
      return {
        kind: 'init',
        unique,
        major: bytes.readUInt32LE(40),
        minor: bytes.readUInt32LE(44),
        canResend: canResend(bytes),
      };
    case Opcode.INTERRUPT:
      if (bodyBytes < 8) return null;
      return { kind: 'interrupt', unique, interrupted: bytes.readBigUInt64LE(40) };
    case Opcode.GETATTR:
      return { kind: 'getattr', unique };
    case Opcode.OPEN:
      return { kind: 'open', unique };
    case Opcode.RELEASE:
      return { kind: 'release', unique };
    case Opcode.STATFS:
      return { kind: 'statfs', unique };
    case Opcode.DESTROY:
      return { kind: 'destroy', unique };
    case Opcode.FORGET:
    case Opcode.BATCH_FORGET:
      return { kind: 'forget' };
    default:
      return { kind: 'unknown', unique, opcode };
  }
}

/** The header of a reply with `lengthBytes` bytes behind it, at the start of `target`. */
export function writeReplyHeader(target: Buffer, unique: bigint, lengthBytes: number): void {
  target.writeUInt32LE(REPLY_HEADER_BYTES + lengthBytes, 0);
  target.writeInt32LE(0, 4);
  target.writeBigUInt64LE(unique, REPLY_UNIQUE_AT);
}

export function encodeError(unique: bigint, errno: number): Buffer {
  const bytes = reply(unique, 0);
  bytes.writeInt32LE(-errno, 4);
  return bytes;
}

export function encodeDone(unique: bigint): Buffer {
  return reply(unique, 0);
}

/** struct fuse_init_out. An older kernel's minor version is the one to speak. */
export function encodeInit(unique: bigint, kernelMinor: number, maxBackground: number): Buffer {
  const bytes = reply(unique, 64);
  const body = bytes.subarray(REPLY_HEADER_BYTES);
  body.writeUInt32LE(MAJOR_VERSION, 0);
  body.writeUInt32LE(Math.min(kernelMinor, MINOR_VERSION), 4);
  body.writeUInt32LE(MAX_READ_BYTES, 8);
  body.writeUInt32LE(InitFlag.ASYNC_READ | InitFlag.ASYNC_DIO | InitFlag.MAX_PAGES, 12);
  body.writeUInt16LE(maxBackground, 16);
  body.writeUInt16LE(Math.ceil((maxBackground * 3) / 4), 18);
  body.writeUInt32LE(PAGE_BYTES, 20);
  body.writeUInt32LE(1, 24);
  body.writeUInt16LE(MAX_READ_BYTES / PAGE_BYTES, 28);
  return bytes;
}

/** True if the kernel's INIT is of a version that can be spoken; of a newer major version it asks again. */
export function isSpoken(major: number): boolean {
  return major === MAJOR_VERSION;
}

/** To a kernel of a newer major version: the one spoken here, for it to ask again. */
export function encodeOtherMajor(unique: bigint): Buffer {
  const bytes = reply(unique, 8);
  bytes.writeUInt32LE(MAJOR_VERSION, REPLY_HEADER_BYTES);
  return bytes;
}

/** struct fuse_attr_out: a regular file that only root may read. */
export function encodeAttributes(unique: bigint, sizeBytes: number): Buffer {
  const bytes = reply(unique, 104);
  const body = bytes.subarray(REPLY_HEADER_BYTES);
  body.writeBigUInt64LE(BigInt(VALID_SECONDS), 0);
  const attributes = body.subarray(16);
  attributes.writeBigUInt64LE(ROOT_INODE, 0);
  attributes.writeBigUInt64LE(BigInt(sizeBytes), 8);
  attributes.writeBigUInt64LE(BigInt(Math.ceil(sizeBytes / SECTOR_BYTES)), 16);
  attributes.writeUInt32LE(DEVICE_FILE_MODE, 60);
  attributes.writeUInt32LE(1, 64);
  attributes.writeUInt32LE(PAGE_BYTES, 80);
  return bytes;
}

/** The type and mode of the file, which mount(2) wants to know too. */
export const DEVICE_FILE_MODE = S_IFREG | 0o400;

/** struct fuse_open_out. Bytes never change, so what the kernel has cached stays good. */
export function encodeOpened(unique: bigint): Buffer {
  const bytes = reply(unique, 16);
  bytes.writeUInt32LE(OPEN_KEEP_CACHE, REPLY_HEADER_BYTES + 8);
  return bytes;
}

/** struct fuse_statfs_out */
export function encodeStatfs(unique: bigint, sizeBytes: number): Buffer {
  const bytes = reply(unique, 80);
  const body = bytes.subarray(REPLY_HEADER_BYTES);
  body.writeBigUInt64LE(BigInt(Math.ceil(sizeBytes / PAGE_BYTES)), 0);
  body.writeBigUInt64LE(1n, 24);
  body.writeUInt32LE(PAGE_BYTES, 40);
  body.writeUInt32LE(255, 44);
  body.writeUInt32LE(PAGE_BYTES, 48);
  return bytes;
}

/** Asks the kernel (Linux >= 6.9) to send again what was read from the descriptor and never answered. */
export function encodeResend(): Buffer {
  const bytes = reply(0n, 0);
  bytes.writeInt32LE(NOTIFY_RESEND, 4);
  return bytes;
}

function canResend(init: Buffer): boolean {
  const isExtended = init.length >= 60 && (init.readUInt32LE(52) & INIT_EXTENDED) !== 0;
  return isExtended && (init.readUInt32LE(56) & INIT_FLAGS2_HAS_RESEND) !== 0;
}

function reply(unique: bigint, bodyBytes: number): Buffer {
  const bytes = Buffer.alloc(REPLY_HEADER_BYTES + bodyBytes);
  writeReplyHeader(bytes, unique, bodyBytes);
  return bytes;
}
