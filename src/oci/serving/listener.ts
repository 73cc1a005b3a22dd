import { once } from 'node:events';
import { createServer, type IncomingMessage, type Server, type ServerOptions } from 'node:http';
import { createServer as createTlsServer, type Server as TlsServer } from 'node:https';
import type { SecureContextOptions, TlsOptions } from 'node:tls';
import { getRequestListener } from '@hono/node-server';
import type { HttpSide } from './http-side.ts';

/** Longer than clients and load balancers keep connections: theirs to close. */
const KEEP_ALIVE_MS = 75_000;
const IDLE_POLL_MS = 100;

const TLS_HANDSHAKE_MS = 10_000;
/** Of a request, its line included: tokens are long, but not this long. */
const MAX_HEADER_BYTES = 16 * 1024;

export interface ListenerOptions {
  /** The certificate and its key, or what else proves who is who; null for plain HTTP. */
  readonly tls: TlsOptions | null;
  /** Connections at the same time; more are closed at once. */
  readonly max: number;
  /** Until a request has come whole. */
  readonly requestTimeoutMs: number;
  /** How long a client may take nothing of what waits for it. */
  readonly stalledClientMs: number;
}

export interface Address {
  readonly host: string;
  readonly port: number;
}

/** A TCP port on which an {@link HttpSide} answers. */
export class Listener {
  /** Where it really listens: the port is never 0. */
  readonly address: Address;
  readonly #server: Server | TlsServer;

  private constructor(server: Server | TlsServer) {
    const address = server.address();
    if (address === null || typeof address === 'string') throw new Error('the server has no TCP address');
    this.address = { host: address.address, port: address.port };
    this.#server = server;
  }

  /** Rejects with the system's error if nobody can listen there. */
  static async open(http: HttpSide, { host, port }: Address, options: ListenerOptions): Promise<Listener> {
    // Answers are written to Node's own response: the replaced global classes would only be in the way.
    const answer = getRequestListener(http.fetch, { overrideGlobalObjects: false });
    const { tls } = options;
    const server =
      tls === null
        ? createServer(serverOptions(options))
        : createTlsServer({ ...serverOptions(options), ...tls, handshakeTimeout: TLS_HANDSHAKE_MS });
    server.maxConnections = options.max;
    server.timeout = options.stalledClientMs;
    server.on('request', (incoming, outgoing) => {
      // Who comes over a connection that is still open goes elsewhere for the next.
      if (!server.listening) outgoing.shouldKeepAlive = false;
      if (isAmbiguous(incoming)) outgoing.writeHead(400, { connection: 'close' }).end();
      else void answer(incoming, outgoing);
    });
    server.listen(port, host);
    await once(server, 'listening');
    return new Listener(server);
  }

  /** New connections get this certificate. */
  useCertificate(tls: SecureContextOptions): void {
    if ('setSecureContext' in this.#server) this.#server.setSecureContext(tls);
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

function serverOptions({ requestTimeoutMs }: ListenerOptions): ServerOptions {
  return {
    keepAliveTimeout: KEEP_ALIVE_MS,
    // What is read differently here and by a proxy in front smuggles requests: the strict parser, whatever Node's flags.
    insecureHTTPParser: false,
    requireHostHeader: true,
    maxHeaderSize: MAX_HEADER_BYTES,
    headersTimeout: requestTimeoutMs,
    requestTimeout: requestTimeoutMs,
    connectionsCheckingInterval: Math.ceil(requestTimeoutMs / 4),
  };
}

/** Two of these (RFC 9112, 3.2): Node takes the first, somebody in front perhaps the last. */
const ONCE: ReadonlySet<string> = new Set(['host', 'authorization']);

function isAmbiguous({ rawHeaders }: IncomingMessage): boolean {
  let seen = '';
  for (let at = 0; at < rawHeaders.length; at += 2) {
    const name = rawHeaders[at]?.toLowerCase() ?? '';
    if (!ONCE.has(name)) continue;
    if (seen.includes(name)) return true;
    seen += `${name} `;
  }
  return false;
}
