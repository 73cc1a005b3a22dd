import { once } from 'node:events';
import { connect, type Socket } from 'node:net';

/** One answer out of a connection. */
export interface RawAnswer {
  readonly status: number;
  readonly headers: ReadonlyMap<string, string>;
  readonly body: Buffer;
}

/** What is asked of a server over one connection. */
export interface RawRequest {
  readonly method: 'GET' | 'HEAD';
  readonly path: string;
  /** A `Range` header. */
  readonly range?: string;
}

const HEADERS_END = '\r\n\r\n';

/**
 * A connection over which all requests are written at once, without waiting for an answer (RFC 9112, section 9.3.2).
 * It reads answers whose length is told, as all of a registry's but errors of the connection are.
 */
export class Pipeline {
  readonly #socket: Socket;
  readonly #host: string;
  readonly #pieces: AsyncIterator<Buffer>;
  /** What came and no answer was made of yet. */
  #held: Buffer = Buffer.alloc(0);

  private constructor(socket: Socket, host: string) {
    this.#socket = socket;
    this.#host = host;
    this.#pieces = socket.iterator({ destroyOnReturn: false });
  }

  /** @param host "127.0.0.1:PORT" */
  static async connect(host: string): Promise<Pipeline> {
    const { hostname, port } = new URL(`http://${host}`);
    const socket = connect(Number(port), hostname);
    await once(socket, 'connect');
    return new Pipeline(socket, host);
  }

  send(requests: readonly RawRequest[]): void {
    const texts = requests.map(({ method, path, range }) => {
      const headers = [`host: ${this.#host}`, ...(range === undefined ? [] : [`range: ${range}`])];
      return `${[`${method} ${path} HTTP/1.1`, ...headers].join('\r\n')}${HEADERS_END}`;
    });
    this.#socket.write(texts.join(''));
  }

  /** The answers to requests that were sent, in their order. Rejects if the connection ends before. */
  async *answers(requests: readonly RawRequest[]): AsyncGenerator<RawAnswer> {
    for (const { method } of requests) {
      while (!this.#held.includes(HEADERS_END)) await this.#more();
      const end = this.#held.indexOf(HEADERS_END);
      const { status, headers } = readHead(this.#take(end).toString('latin1'));
      this.#take(HEADERS_END.length);
      const length = method === 'HEAD' ? 0 : Number(headers.get('content-length'));
      if (!Number.isInteger(length)) throw new Error(`an answer (${status}) without a length`);
      while (this.#held.length < length) await this.#more();
      yield { status, headers, body: this.#take(length) };
    }
    if (this.#held.length > 0) throw new Error(`${this.#held.length} bytes that nobody asked for`);
  }

  /** Goes away without a word. */
  async destroy(): Promise<void> {
    this.#socket.destroy();
    if (!this.#socket.closed) await once(this.#socket, 'close');
  }

  async #more(): Promise<void> {
    const { value, done } = await this.#pieces.next();
    if (done) throw new Error('the connection ended before all answers were there');
    this.#held = this.#held.length === 0 ? value : Buffer.concat([this.#held, value]);
  }

  #take(length: number): Buffer {
    const taken = this.#held.subarray(0, length);
    this.#held = this.#held.subarray(length);
    return taken;
  }
}

function readHead(text: string): Pick<RawAnswer, 'status' | 'headers'> {
  const [first = '', ...lines] = text.split('\r\n');
  const status = Number(/^HTTP\/1\.1 (\d{3}) /.exec(first)?.[1]);
  const fields = lines.map((line): [string, string] => {
    const colon = line.indexOf(':');
    return [line.slice(0, colon).toLowerCase(), line.slice(colon + 1).trim()];
  });
  return { status, headers: new Map(fields) };
}
