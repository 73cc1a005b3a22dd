import { createServer, type IncomingMessage, request, type Server, type ServerResponse } from 'node:http';

/** What goes wrong with one request on its way. */
export type Fault =
  /** The connection ends after so many bytes of the body. */
  | { readonly kind: 'cut'; readonly afterBytes: number }
  /** Nothing comes any more after so many bytes of the body, and the connection stays. */
  | { readonly kind: 'stall'; readonly afterBytes: number }
  /** One byte of the body is another one, if the body has so many. */
  | { readonly kind: 'flip'; readonly atByte: number }
  /** The server is not asked. */
  | { readonly kind: 'status'; readonly status: number };

/** Stands between clients and an HTTP server of this machine, counts requests and makes them fail. */
export class FaultyRelay {
  /** Paths with queries, in the order in which they came. */
  readonly requests: string[] = [];
  /** Chooses what becomes of a request. */
  fault: (path: string) => Fault | null = () => null;
  /** What a request waits for before it is passed on. */
  hold: (path: string, method: string) => Promise<void> | null = () => null;
  /** What the server is asked for in place of a path. */
  reroute: (path: string) => string = (path) => path;
  readonly #server: Server;
  readonly #target: URL;
  #port = 0;
  #running = 0;

  private constructor(server: Server, target: string) {
    this.#server = server;
    this.#target = new URL(target);
  }

  static async start(target: string): Promise<FaultyRelay> {
    const server = createServer();
    const relay = new FaultyRelay(server, target);
    server.on('request', (incoming, outgoing) => void relay.#take(incoming, outgoing));
    await relay.resume();
    return relay;
  }

  get url(): string {
    return `http://127.0.0.1:${this.#port}`;
  }

  /** Requests whose answer is not over. */
  get running(): number {
    return this.#running;
  }

  count(part: string): number {
    return this.requests.filter((path) => path.includes(part)).length;
  }

  /** Listens again after {@link stop}, at the same port. */
  async resume(): Promise<void> {
    await new Promise<void>((resolve) => this.#server.listen(this.#port, '127.0.0.1', resolve));
    const address = this.#server.address();
    if (address === null || typeof address === 'string') throw new Error('a TCP server has no port');
    this.#port = address.port;
  }

  /** Breaks all connections and refuses others. */
  async stop(): Promise<void> {
    const closed = new Promise((resolve) => this.#server.close(resolve));
    this.#server.closeAllConnections();
    await closed;
  }

  async #take(incoming: IncomingMessage, outgoing: ServerResponse): Promise<void> {
    const { url = '/', method = 'GET' } = incoming;
    this.requests.push(url);
    this.#running++;
    outgoing.once('close', () => this.#running--);
    await this.hold(url, method);
    this.#pass(incoming, outgoing);
  }

  #pass(incoming: IncomingMessage, outgoing: ServerResponse): void {
    const { url: path = '/', method, headers } = incoming;
    const fault = this.fault(path);
    if (fault?.kind === 'status') {
      outgoing.writeHead(fault.status).end();
      return;
    }
    const { hostname, port } = this.#target;
    const onward = request({ hostname, port, path: this.reroute(path), method, headers }, (answer) => {
      outgoing.writeHead(answer.statusCode ?? 502, answer.headers);
      let sentBytes = 0;
      answer.on('data', (bytes: Buffer) => {
        const start = sentBytes;
        sentBytes += bytes.length;
        if (fault?.kind === 'flip' && fault.atByte >= start && fault.atByte < sentBytes) {
          bytes[fault.atByte - start]! ^= 0x10;
        }
        if ((fault?.kind === 'cut' || fault?.kind === 'stall') && sentBytes > fault.afterBytes) {
          outgoing.write(bytes.subarray(0, Math.max(0, fault.afterBytes - start)));
          onward.destroy();
          if (fault.kind === 'cut') outgoing.destroy();
          return;
        }
        if (outgoing.write(bytes)) return;
        answer.pause();
        outgoing.once('drain', () => answer.resume());
      });
      answer.on('end', () => outgoing.end());
      answer.on('error', () => {
        if (fault?.kind !== 'stall') outgoing.destroy();
      });
    });
    onward.on('error', () => {
      if (fault?.kind !== 'stall') outgoing.destroy();
    });
    outgoing.on('close', () => onward.destroy());
    onward.end();
  }
}
