import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net';

/** A TCP relay on loopback that counts what comes back through it: what a client really fetched, whatever it says. */
export class CountingRelay {
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();
  #bytesToClient = 0;

  private constructor(targetPort: number) {
    this.#server = createServer((client) => {
      const target = connect(targetPort, '127.0.0.1');
      target.on('data', (bytes) => {
        this.#bytesToClient += bytes.length;
      });
      for (const [from, to] of [
        [client, target],
        [target, client],
      ] as const) {
        this.#sockets.add(from.setNoDelay());
        from.pipe(to);
        from.once('error', () => to.destroy());
        from.once('close', () => {
          this.#sockets.delete(from);
          to.destroySoon();
        });
      }
    });
  }

  /** Listens on a free port of 127.0.0.1. */
  static async open(targetPort: number): Promise<CountingRelay> {
    const relay = new CountingRelay(targetPort);
    relay.#server.listen(0, '127.0.0.1');
    await once(relay.#server, 'listening');
    return relay;
  }

  get port(): number {
    return (this.#server.address() as AddressInfo).port;
  }

  /** Bytes from the target so far, headers included. */
  get bytesToClient(): number {
    return this.#bytesToClient;
  }

  async close(): Promise<void> {
    for (const socket of this.#sockets) socket.destroy();
    this.#server.close();
    await once(this.#server, 'close');
  }
}
