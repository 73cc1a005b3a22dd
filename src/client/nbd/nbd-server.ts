import { createServer, type Server, type Socket } from 'node:net';
import { NbdConnection, type NbdExport } from './nbd-connection.ts';

export interface NbdServerOptions extends NbdExport {
  /** The unix socket to listen on; it must not exist. Who may read the device is decided by its directory. */
  readonly socketPath: string;
}

/**
 * Serves one device, read-only, to any number of NBD clients on a unix socket (fixed newstyle handshake,
 * structured replies). Without TLS, export metadata contexts and extended headers.
 */
export class NbdServer {
  readonly socketPath: string;
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();
  readonly #running = new Set<Promise<unknown>>();

  private constructor(options: NbdServerOptions) {
    this.socketPath = options.socketPath;
    this.#server = createServer((socket) => this.#accept(socket, options));
  }

  /** Resolves when clients can connect; rejects with the system's error (a path over 107 bytes: EINVAL). */
  static async listen(options: NbdServerOptions): Promise<NbdServer> {
    const server = new NbdServer(options);
    await new Promise<void>((resolve, reject) => {
      server.#server.once('error', reject);
      server.#server.listen(options.socketPath, resolve);
    });
    return server;
  }

  /** How many clients are connected. */
  get connections(): number {
    return this.#sockets.size;
  }

  /** Drops all clients, removes the socket, and waits for reads that were under way. */
  async close(): Promise<void> {
    const closed = new Promise<void>((resolve) => this.#server.close(() => resolve()));
    for (const socket of this.#sockets) socket.destroy();
    await closed;
    await Promise.all(this.#running);
  }

  #accept(socket: Socket, options: NbdServerOptions): void {
    this.#sockets.add(socket);
    socket.once('close', () => this.#sockets.delete(socket));
    const run = new NbdConnection(socket, options).run();
    this.#running.add(run);
    void run.finally(() => this.#running.delete(run));
  }
}
