import { once } from 'node:events';
import { connect, createServer, type Server, type Socket } from 'node:net';

/** What becomes of a connection that has carried so many bytes to the client. */
interface Trouble {
  readonly kind: 'reset' | 'stall';
  readonly afterBytes: number;
  /** How many connections it befalls still. */
  left: number;
}

/** A cable between clients and a server of this machine, that can be cut. */
export class TcpRelay {
  readonly host: string;
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();
  readonly #stalled: (() => void)[] = [];
  #trouble: Trouble | null = null;

  private constructor(server: Server, host: string) {
    this.#server = server;
    this.host = host;
  }

  /** @param target "127.0.0.1:PORT" */
  static async start(target: string): Promise<TcpRelay> {
    const server = createServer().listen(0, '127.0.0.1');
    await once(server, 'listening');
    const address = server.address();
    if (address === null || typeof address === 'string') throw new Error('a TCP server has no port');
    const relay = new TcpRelay(server, `127.0.0.1:${address.port}`);
    const { hostname, port } = new URL(`http://${target}`);
    server.on('connection', (client) => relay.#join(client, connect(Number(port), hostname)));
    return relay;
  }

  /** The next connections that carry so many bytes to the client are reset. */
  resetAfter(afterBytes: number, times = 1): void {
    this.#trouble = { kind: 'reset', afterBytes, left: times };
  }

  /** From now on connections that have carried so many bytes to the client stay open, and nothing comes any more. */
  stallAfter(afterBytes: number): void {
    this.#trouble = { kind: 'stall', afterBytes, left: Number.POSITIVE_INFINITY };
  }

  /** How many more connections are to have trouble. */
  get troublesLeft(): number {
    return this.#trouble?.left ?? 0;
  }

  /** How many connections are stalled now. */
  get stalled(): number {
    return this.#stalled.length;
  }

  /** From now on whoever asks loses the connection before an answer comes, as if nobody were there. */
  cut(): void {
    this.resetAfter(0, Number.POSITIVE_INFINITY);
  }

  /** What was stalled goes on, and later connections are whole again. */
  mend(): void {
    this.#trouble = null;
    for (const goOn of this.#stalled.splice(0)) goOn();
  }

  async stop(): Promise<void> {
    const closed = once(this.#server, 'close');
    this.#server.close();
    for (const socket of this.#sockets) socket.destroy();
    await closed;
  }

  #join(client: Socket, server: Socket): void {
    for (const [one, other] of [
      [client, server],
      [server, client],
    ] as const) {
      this.#sockets.add(one);
      // A broken connection breaks at both ends; what went wrong, these see.
      one.on('error', () => {});
      one.once('close', () => {
        this.#sockets.delete(one);
        other.destroy();
      });
    }
    client.pipe(server);
    let carriedBytes = 0;
    server.on('data', (bytes) => {
      const trouble = this.#trouble;
      const roomBytes = trouble === null || trouble.left === 0 ? Infinity : trouble.afterBytes - carriedBytes;
      carriedBytes += bytes.length;
      if (trouble === null || bytes.length < roomBytes) {
        if (!client.write(bytes)) {
          server.pause();
          client.once('drain', () => server.resume());
        }
        return;
      }
      trouble.left--;
      server.pause();
      // What was carried before the trouble arrives.
      const room = Math.max(0, roomBytes);
      client.write(bytes.subarray(0, room), () => {
        if (trouble.kind === 'reset') client.resetAndDestroy();
      });
      if (trouble.kind === 'reset') return;
      this.#stalled.push(() => {
        client.write(bytes.subarray(room));
        server.resume();
      });
    });
    server.once('end', () => client.end());
  }
}
