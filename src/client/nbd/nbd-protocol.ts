/**
 * The NBD protocol's numbers and frames (the NBD project's proto.md): fixed newstyle handshake, simple and
 * structured replies. All integers big-endian. Bytes in, values out; no sockets here.
 */

/** "NBDMAGIC", the first word of a server. */
const INIT_MAGIC = 0x4e42444d41474943n;
/** "IHAVEOPT", the second word of a newstyle server, and before each option of a client. */
const OPTION_MAGIC = 0x49484156454f5054n;
const OPTION_REPLY_MAGIC = 0x0003e889045565a9n;
const REQUEST_MAGIC = 0x25609513;
const SIMPLE_REPLY_MAGIC = 0x67446698;
const STRUCTURED_REPLY_MAGIC = 0x668e33ef;

const HANDSHAKE_FIXED_NEWSTYLE = 1;
const HANDSHAKE_NO_ZEROES = 2;

export const OPTION_HEADER_BYTES = 16;
export const CLIENT_FLAGS_BYTES = 4;
export const REQUEST_BYTES = 28;

/** The largest payload of a request or reply that every implementation must take (proto.md, "Block size"). */
export const MAX_PAYLOAD_BYTES = 32 * 1024 * 1024;
/** Names are at most 4096 bytes ("Strings"); an option of ours needs no more than a name and a few requests. */
export const MAX_OPTION_BYTES = 64 * 1024;
export const MAX_NAME_BYTES = 4096;

export const NbdOption = {
  EXPORT_NAME: 1,
  ABORT: 2,
  LIST: 3,
  INFO: 6,
  GO: 7,
  STRUCTURED_REPLY: 8,
} as const;

export const OptionReply = {
  ACK: 1,
  SERVER: 2,
  INFO: 3,
  ERR_UNSUP: 0x80000001,
  ERR_INVALID: 0x80000003,
  ERR_UNKNOWN: 0x80000006,
  ERR_TOO_BIG: 0x80000009,
} as const;

const INFO_EXPORT = 0;
const INFO_NAME = 1;
const INFO_BLOCK_SIZE = 3;

export const TransmissionFlag = {
  HAS_FLAGS: 1,
  READ_ONLY: 2,
  SEND_FLUSH: 4,
  SEND_DF: 128,
  CAN_MULTI_CONN: 256,
} as const;

export const Command = { READ: 0, WRITE: 1, DISC: 2, FLUSH: 3, TRIM: 4, WRITE_ZEROES: 6 } as const;

/** The client wants the whole read in one chunk. */
export const COMMAND_FLAG_DF = 4;

export const NbdErrno = { OK: 0, EPERM: 1, EIO: 5, EINVAL: 22 } as const;

const CHUNK_FLAG_DONE = 1;
const CHUNK_NONE = 0;
const CHUNK_OFFSET_DATA = 1;
const CHUNK_OFFSET_HOLE = 2;
const CHUNK_ERROR = 0x8001;

/** The client broke the protocol: its connection is to be dropped. */
export class NbdProtocolError extends Error {
  override readonly name = 'NbdProtocolError';
  readonly code = 'ERR_NBD_PROTOCOL';
}

/** What a server says first. */
export function encodeGreeting(): Buffer {
  const bytes = Buffer.alloc(18);
  bytes.writeBigUInt64BE(INIT_MAGIC, 0);
  bytes.writeBigUInt64BE(OPTION_MAGIC, 8);
  bytes.writeUInt16BE(HANDSHAKE_FIXED_NEWSTYLE | HANDSHAKE_NO_ZEROES, 16);
  return bytes;
}

/** Flags that a client answers the greeting with; throws if it sets one it was not offered. */
export function decodeClientFlags(bytes: Buffer): { readonly noZeroes: boolean } {
  const flags = bytes.readUInt32BE(0);
  if ((flags & ~(HANDSHAKE_FIXED_NEWSTYLE | HANDSHAKE_NO_ZEROES)) !== 0) {
    throw new NbdProtocolError(`client flags 0x${flags.toString(16)}`);
  }
  return { noZeroes: (flags & HANDSHAKE_NO_ZEROES) !== 0 };
}

/** Decodes the 16 bytes before an option's data; throws on a bad magic or an absurd length. */
export function decodeOptionHeader(bytes: Buffer): { readonly option: number; readonly lengthBytes: number } {
  if (bytes.readBigUInt64BE(0) !== OPTION_MAGIC) throw new NbdProtocolError('option magic');
  const lengthBytes = bytes.readUInt32BE(12);
  if (lengthBytes > MAX_PAYLOAD_BYTES) throw new NbdProtocolError(`option of ${lengthBytes} bytes`);
  return { option: bytes.readUInt32BE(8), lengthBytes };
}

export function encodeOptionReply(option: number, type: number, data: Buffer = Buffer.alloc(0)): Buffer {
  const header = Buffer.alloc(20);
  header.writeBigUInt64BE(OPTION_REPLY_MAGIC, 0);
  header.writeUInt32BE(option, 8);
  header.writeUInt32BE(type, 12);
  header.writeUInt32BE(data.length, 16);
  return Buffer.concat([header, data]);
}

/** Data of an NBD_REP_SERVER reply: one export in the answer to NBD_OPT_LIST. */
export function encodeListedExport(name: string): Buffer {
  const bytes = Buffer.from(name);
  const length = Buffer.alloc(4);
  length.writeUInt32BE(bytes.length, 0);
  return Buffer.concat([length, bytes]);
}

/** Decodes the data of NBD_OPT_INFO and NBD_OPT_GO; null if it does not add up. */
export function decodeInfoRequest(
  data: Buffer,
): { readonly exportName: string; readonly wantsName: boolean } | null {
  if (data.length < 6) return null;
  const nameBytes = data.readUInt32BE(0);
  if (nameBytes > MAX_NAME_BYTES || data.length < 6 + nameBytes) return null;
  const requests = data.readUInt16BE(4 + nameBytes);
  if (data.length !== 6 + nameBytes + 2 * requests) return null;
  let wantsName = false;
  for (let i = 0; i < requests; i++) {
    if (data.readUInt16BE(6 + nameBytes + 2 * i) === INFO_NAME) wantsName = true;
  }
  return { exportName: data.toString('utf8', 4, 4 + nameBytes), wantsName };
}

export function encodeInfoExport(sizeBytes: number, transmissionFlags: number): Buffer {
  const bytes = Buffer.alloc(12);
  bytes.writeUInt16BE(INFO_EXPORT, 0);
  bytes.writeBigUInt64BE(BigInt(sizeBytes), 2);
  bytes.writeUInt16BE(transmissionFlags, 10);
  return bytes;
}

export function encodeInfoName(name: string): Buffer {
  const type = Buffer.alloc(2);
  type.writeUInt16BE(INFO_NAME, 0);
  return Buffer.concat([type, Buffer.from(name)]);
}

export function encodeInfoBlockSize(): Buffer {
  const bytes = Buffer.alloc(14);
  bytes.writeUInt16BE(INFO_BLOCK_SIZE, 0);
  bytes.writeUInt32BE(1, 2);
  bytes.writeUInt32BE(4096, 6);
  bytes.writeUInt32BE(MAX_PAYLOAD_BYTES, 10);
  return bytes;
}

/** The answer to NBD_OPT_EXPORT_NAME, which has no option reply: size, flags, and 124 zeroes if not waived. */
export function encodeExportNameAnswer(
  sizeBytes: number,
  transmissionFlags: number,
  noZeroes: boolean,
): Buffer {
  const bytes = Buffer.alloc(noZeroes ? 10 : 134);
  bytes.writeBigUInt64BE(BigInt(sizeBytes), 0);
  bytes.writeUInt16BE(transmissionFlags, 8);
  return bytes;
}

export interface NbdRequest {
  readonly flags: number;
  readonly type: number;
  /** Given back unchanged in the reply. */
  readonly cookie: bigint;
  readonly offset: bigint;
  readonly lengthBytes: number;
}

/** Decodes the 28 bytes of a request; throws on a bad magic, after which nothing more can be understood. */
export function decodeRequest(bytes: Buffer): NbdRequest {
  if (bytes.readUInt32BE(0) !== REQUEST_MAGIC) throw new NbdProtocolError('request magic');
  return {
    flags: bytes.readUInt16BE(4),
    type: bytes.readUInt16BE(6),
    cookie: bytes.readBigUInt64BE(8),
    offset: bytes.readBigUInt64BE(16),
    lengthBytes: bytes.readUInt32BE(24),
  };
}

/** Bytes of a simple reply before its data. */
export const SIMPLE_REPLY_BYTES = 16;

export function writeSimpleReply(target: Buffer, cookie: bigint, errno: number): void {
  target.writeUInt32BE(SIMPLE_REPLY_MAGIC, 0);
  target.writeUInt32BE(errno, 4);
  target.writeBigUInt64BE(cookie, 8);
}

/** Bytes of a structured data chunk before its data: chunk header and the data's offset. */
export const DATA_CHUNK_BYTES = 28;

function writeChunkHeader(
  target: Buffer,
  type: number,
  cookie: bigint,
  payloadBytes: number,
  done: boolean,
): void {
  target.writeUInt32BE(STRUCTURED_REPLY_MAGIC, 0);
  target.writeUInt16BE(done ? CHUNK_FLAG_DONE : 0, 4);
  target.writeUInt16BE(type, 6);
  target.writeBigUInt64BE(cookie, 8);
  target.writeUInt32BE(payloadBytes, 16);
}

/** Writes what stands before `lengthBytes` of data at device offset `offset`. */
export function writeDataChunk(
  target: Buffer,
  cookie: bigint,
  offset: number,
  lengthBytes: number,
  done: boolean,
): void {
  writeChunkHeader(target, CHUNK_OFFSET_DATA, cookie, 8 + lengthBytes, done);
  target.writeBigUInt64BE(BigInt(offset), 20);
}

export function encodeHoleChunk(cookie: bigint, offset: number, lengthBytes: number, done: boolean): Buffer {
  const bytes = Buffer.alloc(32);
  writeChunkHeader(bytes, CHUNK_OFFSET_HOLE, cookie, 12, done);
  bytes.writeBigUInt64BE(BigInt(offset), 20);
  bytes.writeUInt32BE(lengthBytes, 28);
  return bytes;
}

/** A chunk that says only that the reply is complete. */
export function encodeDoneChunk(cookie: bigint): Buffer {
  const bytes = Buffer.alloc(20);
  writeChunkHeader(bytes, CHUNK_NONE, cookie, 0, true);
  return bytes;
}

export function encodeErrorChunk(cookie: bigint, errno: number, message: string): Buffer {
  const text = Buffer.from(message).subarray(0, MAX_NAME_BYTES);
  const bytes = Buffer.alloc(26 + text.length);
  writeChunkHeader(bytes, CHUNK_ERROR, cookie, 6 + text.length, true);
  bytes.writeUInt32BE(errno, 20);
  bytes.writeUInt16BE(text.length, 24);
  text.copy(bytes, 26);
  return bytes;
}
