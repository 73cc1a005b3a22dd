import type { Socket } from 'node:net';
import { setImmediate as nextTurn } from 'node:timers/promises';
import type { ByteSource } from '../../format/byte-source.ts';
import {
  CLIENT_FLAGS_BYTES,
  COMMAND_FLAG_DF,
  Command,
  DATA_CHUNK_BYTES,
  decodeClientFlags,
  decodeInfoRequest,
  decodeOptionHeader,
  decodeRequest,
  encodeDoneChunk,
  encodeErrorChunk,
  encodeExportNameAnswer,
  encodeGreeting,
  encodeHoleChunk,
  encodeInfoBlockSize,
  encodeInfoExport,
  encodeInfoName,
  encodeListedExport,
  encodeOptionReply,
  MAX_OPTION_BYTES,
  MAX_PAYLOAD_BYTES,
  NbdErrno,
  NbdOption,
  NbdProtocolError,
  type NbdRequest,
  OPTION_HEADER_BYTES,
  OptionReply,
  REQUEST_BYTES,
  SIMPLE_REPLY_BYTES,
  TransmissionFlag,
  writeDataChunk,
  writeSimpleReply,
} from './nbd-protocol.ts';
import { ReplyStream } from './reply-stream.ts';

/** A stretch of a device; a hole reads as zeros. Bytes. */
export interface Extent {
  readonly offset: number;
  readonly length: number;
  readonly hole: boolean;
}

/** A source that may know where its holes are. */
export interface BlockDevice extends ByteSource {
  extents?(offset: number, length: number): Iterable<Extent>;
}

export interface NbdExport {
  readonly device: BlockDevice;
  /** The name clients may ask for; the empty name always works. */
  readonly exportName?: string;
  /** Told of each read that failed: the client learns no more than EIO. */
  readonly onReadError?: (error: unknown, offset: number, lengthBytes: number) => void;
}

/** Replies of one client that may be under way: more requests are not taken up until it has read some. */
const MAX_IN_FLIGHT_BYTES = 64 * 1024 * 1024;
const MAX_IN_FLIGHT_REQUESTS = 256;
/** Longer replies have a buffer of their own, and may have holes. */
const MAX_BATCHED_READ_BYTES = 64 * 1024;
/** After so long other clients, timers and fetches get their turn. */
const MAX_TURN_MS = 2;
/** A hole shorter than this is sent as zeros: its own chunk would not be worth a system call. */
const MIN_HOLE_BYTES = 4096;

const PAYLOAD_COMMANDS: ReadonlySet<number> = new Set([Command.WRITE]);
const WRITE_COMMANDS: ReadonlySet<number> = new Set([Command.WRITE, Command.TRIM, Command.WRITE_ZEROES]);

class Disconnected extends Error {}

/** One client, from greeting to disconnect. */
export class NbdConnection {
  readonly #socket: Socket;
  readonly #export: NbdExport;
  readonly #gone = new AbortController();
  readonly #replies: ReplyStream;
  readonly #reads = new Set<Promise<void>>();
  /** Read from the socket and not taken yet. */
  #input: Buffer = Buffer.alloc(0);
  #structured = false;
  #inFlightBytes = 0;
  #inFlightRequests = 0;
  #wake: (() => void) | null = null;

  constructor(socket: Socket, served: NbdExport) {
    this.#socket = socket;
    this.#export = served;
    this.#replies = new ReplyStream(socket);
  }

  /**
   * Serves until the client leaves, breaks the protocol, or the socket is destroyed. Never rejects; tells whether the
   * client said goodbye. With `isNegotiated` it begins with the transmission phase, as the kernel does: simple replies.
   */
  async run({ isNegotiated = false } = {}): Promise<'goodbye' | 'lost'> {
    const wake = () => this.#wake?.();
    this.#socket.on('readable', wake).on('drain', wake).on('end', wake).on('error', wake);
    this.#socket.on('close', () => {
      this.#gone.abort();
      wake();
    });
    try {
      if (isNegotiated || (await this.#negotiate())) await this.#transmit();
      await Promise.all(this.#reads);
      this.#socket.end();
      return 'goodbye';
    } catch (error) {
      if (!(error instanceof Disconnected || error instanceof NbdProtocolError)) throw error;
      this.#socket.destroy();
      await Promise.all(this.#reads);
      return 'lost';
    }
  }

  #transmissionFlags(): number {
    return (
      TransmissionFlag.HAS_FLAGS |
      TransmissionFlag.READ_ONLY |
      TransmissionFlag.SEND_FLUSH |
      TransmissionFlag.CAN_MULTI_CONN |
      (this.#structured ? TransmissionFlag.SEND_DF : 0)
    );
  }

  /** True when the client went on to transmission, false when it said goodbye. */
  async #negotiate(): Promise<boolean> {
    this.#socket.write(encodeGreeting());
    const { noZeroes } = decodeClientFlags(await this.#take(CLIENT_FLAGS_BYTES));
    for (;;) {
      await this.#roomToAnswer();
      const { option, lengthBytes } = decodeOptionHeader(await this.#take(OPTION_HEADER_BYTES));
      if (lengthBytes > MAX_OPTION_BYTES) {
        await this.#discard(lengthBytes);
        this.#socket.write(encodeOptionReply(option, OptionReply.ERR_TOO_BIG));
        continue;
      }
      const data = lengthBytes === 0 ? Buffer.alloc(0) : await this.#take(lengthBytes);
      switch (option) {
        case NbdOption.EXPORT_NAME:
          // This option has no error reply: the connection is all there is to refuse with.
          if (!this.#isServed(data.toString())) throw new NbdProtocolError('unknown export');
          this.#socket.write(
            encodeExportNameAnswer(this.#export.device.size, this.#transmissionFlags(), noZeroes),
          );
          return true;
        case NbdOption.ABORT:
          this.#socket.write(encodeOptionReply(option, OptionReply.ACK));
          return false;
        case NbdOption.LIST:
          this.#list(data);
          break;
        case NbdOption.INFO:
        case NbdOption.GO:
          if (this.#inform(option, data) && option === NbdOption.GO) return true;
          break;
        case NbdOption.STRUCTURED_REPLY:
          this.#structured ||= data.length === 0;
          this.#socket.write(
            encodeOptionReply(option, data.length === 0 ? OptionReply.ACK : OptionReply.ERR_INVALID),
          );
          break;
        default:
          this.#socket.write(encodeOptionReply(option, OptionReply.ERR_UNSUP));
      }
    }
  }

  #isServed(name: string): boolean {
    return name === '' || name === this.#export.exportName;
  }

  #list(data: Buffer): void {
    if (data.length > 0) {
      this.#socket.write(encodeOptionReply(NbdOption.LIST, OptionReply.ERR_INVALID));
      return;
    }
    const listed = encodeListedExport(this.#export.exportName ?? '');
    this.#socket.write(encodeOptionReply(NbdOption.LIST, OptionReply.SERVER, listed));
    this.#socket.write(encodeOptionReply(NbdOption.LIST, OptionReply.ACK));
  }

  #inform(option: number, data: Buffer): boolean {
    const asked = decodeInfoRequest(data);
    if (asked === null || !this.#isServed(asked.exportName)) {
      const error = asked === null ? OptionReply.ERR_INVALID : OptionReply.ERR_UNKNOWN;
      this.#socket.write(encodeOptionReply(option, error));
      return false;
    }
    const infos = [
      encodeInfoExport(this.#export.device.size, this.#transmissionFlags()),
      encodeInfoBlockSize(),
      ...(asked.wantsName ? [encodeInfoName(this.#export.exportName ?? '')] : []),
    ];
    for (const info of infos) this.#socket.write(encodeOptionReply(option, OptionReply.INFO, info));
    this.#socket.write(encodeOptionReply(option, OptionReply.ACK));
    return true;
  }

  /** Answers requests until the client says goodbye. What came together is answered together. */
  async #transmit(): Promise<void> {
    let turnEndMs = performance.now() + MAX_TURN_MS;
    for (;;) {
      const isTurnOver = performance.now() >= turnEndMs;
      let bytes = isTurnOver || !this.#hasRoom() ? null : this.#takeNow(REQUEST_BYTES);
      if (bytes === null) {
        this.#replies.flush();
        if (isTurnOver) await nextTurn();
        await this.#roomToAnswer();
        bytes = await this.#take(REQUEST_BYTES);
        turnEndMs = performance.now() + MAX_TURN_MS;
      }
      const request = decodeRequest(bytes);
      if (request.type === Command.DISC) return this.#replies.flush();
      if (PAYLOAD_COMMANDS.has(request.type)) {
        if (request.lengthBytes > MAX_PAYLOAD_BYTES) {
          throw new NbdProtocolError(`write of ${request.lengthBytes} bytes`);
        }
        await this.#discard(request.lengthBytes);
      }
      if (request.type === Command.READ) this.#startRead(request);
      else if (WRITE_COMMANDS.has(request.type))
        this.#fail(request, NbdErrno.EPERM, 'the device is read-only');
      else if (request.type === Command.FLUSH) this.#acknowledge(request);
      else this.#fail(request, NbdErrno.EINVAL, `command ${request.type} is not supported`);
    }
  }

  #startRead(request: NbdRequest): void {
    const { lengthBytes } = request;
    if (lengthBytes > MAX_PAYLOAD_BYTES) {
      this.#fail(request, NbdErrno.EINVAL, `a read is at most ${MAX_PAYLOAD_BYTES} bytes`);
    } else if (request.offset + BigInt(lengthBytes) > BigInt(this.#export.device.size)) {
      this.#fail(request, NbdErrno.EINVAL, 'the read passes the end of the device');
    } else if (lengthBytes === 0) {
      this.#acknowledge(request);
    } else if (!this.#readNow(request, Number(request.offset))) {
      const read = this.#read(request, Number(request.offset)).finally(() => this.#reads.delete(read));
      this.#reads.add(read);
    }
  }

  /** Puts the reply to a short read into the batch, if the device can be read without waiting. */
  #readNow(request: NbdRequest, offset: number): boolean {
    const { lengthBytes, cookie } = request;
    if (lengthBytes > MAX_BATCHED_READ_BYTES) return false;
    const headerBytes = this.#structured ? DATA_CHUNK_BYTES : SIMPLE_REPLY_BYTES;
    const reply = this.#replies.reserve(headerBytes + lengthBytes);
    if (reply === null || this.#export.device.readNow?.(offset, reply.subarray(headerBytes)) !== true) {
      return false;
    }
    this.#writeHeader(reply, cookie, offset, lengthBytes);
    this.#replies.commit(reply.length);
    return true;
  }

  #writeHeader(reply: Buffer, cookie: bigint, offset: number, lengthBytes: number): void {
    if (this.#structured) writeDataChunk(reply, cookie, offset, lengthBytes, true);
    else writeSimpleReply(reply, cookie, NbdErrno.OK);
  }

  async #read(request: NbdRequest, offset: number): Promise<void> {
    const { lengthBytes, cookie } = request;
    this.#inFlightBytes += lengthBytes;
    this.#inFlightRequests++;
    try {
      const wholeChunk = !this.#structured || (request.flags & COMMAND_FLAG_DF) !== 0;
      const pieces = wholeChunk ? null : this.#pieces(offset, lengthBytes);
      const headerBytes = this.#structured ? DATA_CHUNK_BYTES : SIMPLE_REPLY_BYTES;
      if (pieces?.length === 1 && pieces[0]!.hole) {
        this.#send(encodeHoleChunk(cookie, offset, lengthBytes, true));
        return;
      }
      const reply = this.#replies.take(headerBytes + lengthBytes);
      const data = reply.subarray(headerBytes);
      const isRead = this.#export.device.readNow?.(offset, data) ?? false;
      if (!isRead) await this.#export.device.read(offset, data, this.#gone.signal);
      const isPieces = pieces !== null && pieces.length > 1;
      if (!isPieces) this.#writeHeader(reply, cookie, offset, lengthBytes);
      await this.#replies.send(isPieces ? chunks(cookie, offset, data, pieces) : [reply], reply);
    } catch (error) {
      if (this.#gone.signal.aborted) return;
      this.#export.onReadError?.(error, offset, lengthBytes);
      this.#fail(request, NbdErrno.EIO, error instanceof Error ? error.message : 'read failed');
    } finally {
      this.#inFlightBytes -= lengthBytes;
      this.#inFlightRequests--;
      this.#wake?.();
    }
  }

  /** Data and holes of a range, neighbours of one kind joined and short holes counted as data. */
  #pieces(offset: number, length: number): Extent[] | null {
    const extents = this.#export.device.extents?.(offset, length);
    if (extents === undefined) return null;
    const pieces: Extent[] = [];
    for (const extent of extents) {
      const hole = extent.hole && extent.length >= MIN_HOLE_BYTES;
      const last = pieces.at(-1);
      if (last !== undefined && last.hole === hole) {
        pieces[pieces.length - 1] = { ...last, length: last.length + extent.length };
      } else pieces.push({ offset: extent.offset, length: extent.length, hole });
    }
    return pieces;
  }

  #acknowledge(request: NbdRequest): void {
    this.#answer(request.cookie, NbdErrno.OK, () => encodeDoneChunk(request.cookie));
  }

  #fail(request: NbdRequest, errno: number, message: string): void {
    this.#answer(request.cookie, errno, () => encodeErrorChunk(request.cookie, errno, message));
  }

  #answer(cookie: bigint, errno: number, chunk: () => Buffer): void {
    if (this.#structured) {
      this.#send(chunk());
      return;
    }
    const reply = Buffer.alloc(SIMPLE_REPLY_BYTES);
    writeSimpleReply(reply, cookie, errno);
    this.#send(reply);
  }

  #send(reply: Buffer): void {
    this.#replies.add(reply);
    this.#replies.flush();
  }

  /** Holds a client up that sends more than it reads. */
  async #roomToAnswer(): Promise<void> {
    while (!this.#hasRoom()) await this.#woken();
  }

  #hasRoom(): boolean {
    return (
      this.#inFlightBytes < MAX_IN_FLIGHT_BYTES &&
      this.#inFlightRequests < MAX_IN_FLIGHT_REQUESTS &&
      this.#socket.writableLength < MAX_IN_FLIGHT_BYTES
    );
  }

  /** Takes all that the socket has: asking it for each request costs more than the request. */
  #takeNow(lengthBytes: number): Buffer | null {
    if (this.#input.length < lengthBytes) {
      const bytes: Buffer | null = this.#socket.read();
      if (bytes !== null)
        this.#input = this.#input.length === 0 ? bytes : Buffer.concat([this.#input, bytes]);
      if (this.#input.length < lengthBytes) return null;
    }
    const taken = this.#input.subarray(0, lengthBytes);
    this.#input = this.#input.subarray(lengthBytes);
    return taken;
  }

  async #take(lengthBytes: number): Promise<Buffer> {
    for (;;) {
      const bytes = this.#takeNow(lengthBytes);
      if (bytes !== null) return bytes;
      if (this.#socket.readableEnded || this.#socket.destroyed) throw new Disconnected();
      await this.#woken();
    }
  }

  async #discard(lengthBytes: number): Promise<void> {
    for (let left = lengthBytes; left > 0; ) {
      left -= (await this.#take(Math.min(left, 64 * 1024))).length;
    }
  }

  /** Resolves when bytes came, a reply went out, or the client left. */
  #woken(): Promise<void> {
    if (this.#socket.destroyed) throw new Disconnected();
    return new Promise((resolve) => {
      this.#wake = () => {
        this.#wake = null;
        resolve();
      };
    });
  }
}

function chunks(cookie: bigint, offset: number, data: Buffer, pieces: readonly Extent[]): Buffer[] {
  const last = pieces.at(-1);
  return pieces.flatMap((piece) => {
    const done = piece === last;
    if (piece.hole) return [encodeHoleChunk(cookie, piece.offset, piece.length, done)];
    const header = Buffer.allocUnsafe(DATA_CHUNK_BYTES);
    writeDataChunk(header, cookie, piece.offset, piece.length, done);
    const start = piece.offset - offset;
    return [header, data.subarray(start, start + piece.length)];
  });
}
