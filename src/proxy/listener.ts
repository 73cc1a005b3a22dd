import { once } from 'node:events';
import { createServer, type Server } from 'node:http';
import { getRequestListener } from '@hono/node-server';
import { ConfigError } from './errors.ts';
import type { HttpSide } from './http.ts';

/** Longer than clients and load balancers keep connections: theirs to close. */
const KEEP_ALIVE_MS = 75_000;
const IDLE_POLL_MS = 100;

export interface Address {
  readonly host: string;
  readonly port: number;
}

/** A TCP port on which an {@link HttpSide} answers. */
export class Listener {
  /** Where it really listens: the port is never 0. */
  readonly address: Address;
  readonly #server: Server;

  private constructor(server: Server) {
    const address = server.address();
    if (address === null || typeof address === 'string') throw new Error('the server has no TCP address');
    this.address = { host: address.address, port: address.port };
    this.#server = server;
  }

  /**
   * @param key of the configuration that names the address
   * @throws ConfigError if nobody can listen there
   */
  static async open(http: HttpSide, { host, port }: Address, key: string): Promise<Listener> {
    // Answers are written to Node's own response: the replaced global classes would only be in the way.
    const listener = getRequestListener(http.fetch, { overrideGlobalObjects: false });
    const server = createServer({ keepAliveTimeout: KEEP_ALIVE_MS });
    server.on('request', (incoming, outgoing) => {
      // Who comes over a connection that is still open goes elsewhere for the next.
      if (!server.listening) outgoing.shouldKeepAlive = false;
      void listener(incoming, outgoing);
    });
    server.listen(port, host);
    try {
      await once(server, 'listening');
    } catch (cause) {
      const reason = cause instanceof Error ? cause.message : String(cause);
      throw new ConfigError(`${key}: cannot listen on ${host}:${port} (${reason}); choose another address`, {
        cause,
      });
    }
    return new Listener(server);
  }

  /** Takes no new connections, lets running answers end, and after `drainMs` breaks them off. */
  async close(drainMs: number): Promise<void> {
    const closed = once(this.#server, 'close');
    this.#server.close();
    const idle = setInterval(() => this.#server.closeIdleConnections(), IDLE_POLL_MS);
    const timer = setTimeout(() => this.#server.closeAllConnections(), drainMs);
    await closed;
    clearTimeout(timer);
    clearInterval(idle);
  }
}
