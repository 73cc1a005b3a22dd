import { closeSync } from 'node:fs';
import { SystemCallError } from '../../format/libc.ts';
import { lastErrno, loadLibrary } from '../../format/native.ts';

/*
 * Generic netlink, as linux/netlink.h and linux/genetlink.h have it: a message header of 16 bytes (length u32, type
 * u16, flags u16, sequence u32, port u32), a generic header of 4 (command u8, version u8, reserved u16), then
 * attributes (length u16, type u16, value, padded to 4). Integers are the machine's, which all are little-endian here.
 */
const HEADER_BYTES = 16;
const GENERIC_HEADER_BYTES = 4;
const ATTRIBUTE_HEADER_BYTES = 4;
const NLM_F_REQUEST = 1;
const NLM_F_ACK = 4;
const NLMSG_ERROR = 2;
const NLA_F_NESTED = 0x8000;
const NLA_TYPE_MASK = 0x3fff;

const AF_NETLINK = 16;
const SOCK_RAW_CLOEXEC = 3 | 0o2000000;
const NETLINK_GENERIC = 16;

const CONTROL_FAMILY = 0x10;
const CONTROL_GET_FAMILY = 3;
const CONTROL_FAMILY_ID = 1;
const CONTROL_FAMILY_NAME = 2;

const MAX_ANSWER_BYTES = 64 * 1024;

export interface NetlinkAttribute {
  readonly type: number;
  readonly value: Buffer;
  readonly isNested?: boolean;
}

export function encodeAttributes(attributes: readonly NetlinkAttribute[]): Buffer {
  return Buffer.concat(
    attributes.map(({ type, value, isNested = false }) => {
      const bytes = Buffer.alloc(aligned(ATTRIBUTE_HEADER_BYTES + value.length));
      bytes.writeUInt16LE(ATTRIBUTE_HEADER_BYTES + value.length, 0);
      bytes.writeUInt16LE(isNested ? type | NLA_F_NESTED : type, 2);
      value.copy(bytes, ATTRIBUTE_HEADER_BYTES);
      return bytes;
    }),
  );
}

/** A request that is to be acknowledged. */
export function encodeMessage(
  family: number,
  command: number,
  version: number,
  sequence: number,
  attributes: readonly NetlinkAttribute[],
): Buffer {
  const body = encodeAttributes(attributes);
  const header = Buffer.alloc(HEADER_BYTES + GENERIC_HEADER_BYTES);
  header.writeUInt32LE(header.length + body.length, 0);
  header.writeUInt16LE(family, 4);
  header.writeUInt16LE(NLM_F_REQUEST | NLM_F_ACK, 6);
  header.writeUInt32LE(sequence, 8);
  header.writeUInt8(command, HEADER_BYTES);
  header.writeUInt8(version, HEADER_BYTES + 1);
  return Buffer.concat([header, body]);
}

/** What the kernel says to a request: attributes of an answer, or that it is done or failed. */
export type NetlinkReply =
  | { readonly kind: 'answer'; readonly attributes: ReadonlyMap<number, Buffer> }
  /** 0: done. */
  | { readonly kind: 'acknowledgement'; readonly errno: number };

/** @throws RangeError for what is no whole message */
export function decodeMessages(bytes: Buffer): NetlinkReply[] {
  const replies: NetlinkReply[] = [];
  for (let at = 0; at < bytes.length; ) {
    const length = bytes.readUInt32LE(at);
    const message = slice(bytes, at, length, HEADER_BYTES);
    if (message.readUInt16LE(4) === NLMSG_ERROR) {
      replies.push({ kind: 'acknowledgement', errno: Math.abs(message.readInt32LE(HEADER_BYTES)) });
    } else {
      const attributes = decodeAttributes(message.subarray(HEADER_BYTES + GENERIC_HEADER_BYTES));
      replies.push({ kind: 'answer', attributes });
    }
    at += aligned(length);
  }
  return replies;
}

function decodeAttributes(bytes: Buffer): Map<number, Buffer> {
  const attributes = new Map<number, Buffer>();
  for (let at = 0; at < bytes.length; ) {
    const length = bytes.readUInt16LE(at);
    const attribute = slice(bytes, at, length, ATTRIBUTE_HEADER_BYTES);
    attributes.set(
      attribute.readUInt16LE(2) & NLA_TYPE_MASK,
      Buffer.from(attribute.subarray(ATTRIBUTE_HEADER_BYTES)),
    );
    at += aligned(length);
  }
  return attributes;
}

function slice(bytes: Buffer, at: number, length: number, least: number): Buffer {
  if (length < least || at + length > bytes.length) throw new RangeError('netlink: a message is cut off');
  return bytes.subarray(at, at + length);
}

function aligned(length: number): number {
  return (length + 3) & ~3;
}

interface Libc {
  readonly socket: (domain: number, type: number, protocol: number) => number;
  readonly send: NativeTransfer;
  readonly recv: NativeTransfer;
}

interface NativeTransfer {
  async(
    fd: number,
    bytes: Buffer,
    length: number,
    flags: number,
    done: (error: unknown, result: number) => void,
  ): void;
}

let libc: Libc | null = null;

function loadLibc(): Libc {
  const library = loadLibrary('libc.so.6', 'libc6');
  return {
    socket: library.func('int socket(int, int, int)'),
    send: library.func('int64_t send(int, const void *, size_t, int)'),
    recv: library.func('int64_t recv(int, _Out_ void *, size_t, int)'),
  };
}

/** The kernel's side of one generic netlink family. */
export class NetlinkFamily {
  readonly #id: number;
  readonly #name: string;
  readonly #version: number;

  private constructor(id: number, name: string, version: number) {
    this.#id = id;
    this.#name = name;
    this.#version = version;
  }

  /** Null if this kernel has no such family. @throws SystemCallError */
  static async find(name: string, version: number): Promise<NetlinkFamily | null> {
    try {
      const request = [{ type: CONTROL_FAMILY_NAME, value: Buffer.from(`${name}\0`) }];
      const answer = await ask(CONTROL_FAMILY, CONTROL_GET_FAMILY, 1, request, `netlink family ${name}`);
      const id = answer.get(CONTROL_FAMILY_ID);
      return id === undefined ? null : new NetlinkFamily(id.readUInt16LE(0), name, version);
    } catch (error) {
      if (error instanceof SystemCallError && error.code === 'ENOENT') return null;
      throw error;
    }
  }

  /** The attributes of the answer, none if the kernel only says that it is done. @throws SystemCallError */
  ask(command: number, attributes: readonly NetlinkAttribute[]): Promise<ReadonlyMap<number, Buffer>> {
    return ask(this.#id, command, this.#version, attributes, `netlink ${this.#name} command ${command}`);
  }
}

/** A socket for each request: then no answer is taken for another's. On another thread, for the kernel may wait. */
async function ask(
  family: number,
  command: number,
  version: number,
  attributes: readonly NetlinkAttribute[],
  what: string,
): Promise<ReadonlyMap<number, Buffer>> {
  libc ??= loadLibc();
  const fd = libc.socket(AF_NETLINK, SOCK_RAW_CLOEXEC, NETLINK_GENERIC);
  if (fd < 0) throw new SystemCallError('socket(AF_NETLINK, …)', lastErrno());
  try {
    await transfer(libc.send, fd, encodeMessage(family, command, version, 1, attributes), what);
    let answer: ReadonlyMap<number, Buffer> = new Map();
    for (;;) {
      const bytes = Buffer.alloc(MAX_ANSWER_BYTES);
      const length = await transfer(libc.recv, fd, bytes, what);
      for (const reply of decodeMessages(bytes.subarray(0, length))) {
        if (reply.kind === 'answer') answer = reply.attributes;
        else if (reply.errno !== 0) throw new SystemCallError(what, reply.errno);
        else return answer;
      }
    }
  } finally {
    closeSync(fd);
  }
}

function transfer(call: NativeTransfer, fd: number, bytes: Buffer, what: string): Promise<number> {
  return new Promise((resolve, reject) => {
    call.async(fd, bytes, bytes.length, 0, (error, result) => {
      if (error) reject(error);
      else if (result < 0) reject(new SystemCallError(what, lastErrno()));
      else resolve(Number(result));
    });
  });
}
