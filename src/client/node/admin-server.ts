import { chmod, rm } from 'node:fs/promises';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { json } from 'node:stream/consumers';
import { z } from 'zod';
import { errorCode } from '../../format/error-code.ts';
import { refuseOtherHosts } from '../../oci/serving/own-hosts.ts';
import { RequestError } from '../../oci/serving/request-error.ts';
import type { CachedTable } from '../chunks/chunk-cache.ts';
import type { NodeStatus, Readiness } from './node-status.ts';

/** What operators can ask of the daemon. */
export interface AdminHandler {
  status(): Promise<NodeStatus>;
  readiness(): Readiness;
  metrics(): Promise<{ readonly contentType: string; readonly text: string }>;
  /** Unmounts all and ends the daemon. */
  stop(options: { readonly force: boolean }): Promise<void>;
  cacheEntries(): Promise<readonly CachedTable[]>;
  trimCache(toBytes: number): Promise<{ readonly freedBytes: number; readonly heldBytes: number }>;
}

const stopSchema = z.object({ force: z.boolean() });
const trimSchema = z.object({ toBytes: z.int().nonnegative() });

/** Connections that are still open then are cut off. */
const CLOSE_GRACE_MS = 2_000;

interface AdminAnswer {
  readonly status: number;
  readonly contentType: string;
  readonly text: string;
}

type Route = (handler: AdminHandler, incoming: IncomingMessage) => Promise<AdminAnswer>;

/** For whoever can connect. */
const READ_ROUTES: Readonly<Record<string, Route>> = {
  'GET /healthz': async () => jsonAnswer(200, { status: 'alive' }),
  'GET /readyz': async (handler) => {
    const readiness = handler.readiness();
    return jsonAnswer(readiness.isReady ? 200 : 503, readiness);
  },
  'GET /status': async (handler) => jsonAnswer(200, await handler.status()),
  'GET /metrics': async (handler) => ({ status: 200, ...(await handler.metrics()) }),
};

/** For root, by the socket. */
const ALL_ROUTES: Readonly<Record<string, Route>> = {
  ...READ_ROUTES,
  'POST /stop': async (handler, incoming) => {
    await handler.stop(stopSchema.parse(await json(incoming)));
    return jsonAnswer(200, { status: 'stopped' });
  },
  'GET /cache': async (handler) => jsonAnswer(200, await handler.cacheEntries()),
  'POST /cache/trim': async (handler, incoming) => {
    const { toBytes } = trimSchema.parse(await json(incoming));
    return jsonAnswer(200, await handler.trimCache(toBytes));
  },
};

/** Where operators ask the daemon: HTTP on a unix socket that only its own user may use, and, to look only, on TCP. */
export class AdminServer {
  readonly #servers: readonly Server[];

  private constructor(servers: readonly Server[]) {
    this.#servers = servers;
  }

  /** Who holds the run directory's lock may replace the socket: nobody else uses it. Rejects with the system's error. */
  static async start(
    handler: AdminHandler,
    where: {
      readonly socket: string;
      readonly listen: { readonly host: string; readonly port: number } | null;
    },
  ): Promise<AdminServer> {
    await rm(where.socket, { force: true });
    // No page in a browser has anybody connect to it.
    const servers = [await listen(ALL_ROUTES, handler, { path: where.socket }, () => {})];
    await chmod(where.socket, 0o600);
    if (where.listen !== null) {
      const refuse = refuseOtherHosts([where.listen.host], 'ask by its address');
      servers.push(await listen(READ_ROUTES, handler, where.listen, refuse));
    }
    return new AdminServer(servers);
  }

  /** Lets answers end that are under way, for a moment: whoever only holds a connection holds nothing up. */
  async close(): Promise<void> {
    await Promise.all(
      this.#servers.map(async (server) => {
        const closed = new Promise<void>((resolve) => server.close(() => resolve()));
        server.closeIdleConnections();
        const timer = setTimeout(() => server.closeAllConnections(), CLOSE_GRACE_MS);
        await closed;
        clearTimeout(timer);
      }),
    );
  }
}

function listen(
  routes: Readonly<Record<string, Route>>,
  handler: AdminHandler,
  where: { readonly path: string } | { readonly host: string; readonly port: number },
  refuse: ReturnType<typeof refuseOtherHosts>,
): Promise<Server> {
  const server = createServer((incoming, outgoing) => {
    void respond(routes, handler, incoming, refuse).then((answer) => send(outgoing, answer));
  });
  return new Promise((resolve, reject) => {
    server.once('error', reject);
    server.listen(where, () => resolve(server));
  });
}

async function respond(
  routes: Readonly<Record<string, Route>>,
  handler: AdminHandler,
  incoming: IncomingMessage,
  refuse: ReturnType<typeof refuseOtherHosts>,
): Promise<AdminAnswer> {
  const { method, url = '/', headers } = incoming;
  const [pathname = '/'] = url.split('?');
  const name = `${method} ${pathname}`;
  const route = Object.hasOwn(routes, name) ? routes[name] : undefined;
  if (route === undefined) {
    const there = Object.keys(routes).join(', ');
    return jsonAnswer(404, { code: 'ERR_NOT_FOUND', message: `there is ${there}` });
  }
  try {
    refuse({ pathname, headers });
    return await route(handler, incoming);
  } catch (error) {
    if (error instanceof RequestError) {
      return jsonAnswer(403, { code: 'ERR_NODE_OTHER_HOST', message: error.message });
    }
    const code = errorCode(error) ?? 'ERR_NODE';
    return jsonAnswer(409, { code, message: error instanceof Error ? error.message : String(error) });
  }
}

function jsonAnswer(status: number, body: unknown): AdminAnswer {
  return { status, contentType: 'application/json', text: JSON.stringify(body) };
}

function send(outgoing: ServerResponse, { status, contentType, text }: AdminAnswer): void {
  outgoing.writeHead(status, { 'content-type': contentType, connection: 'close' });
  outgoing.end(text);
}
