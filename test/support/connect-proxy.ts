import { once } from 'node:events';
import { createServer, type IncomingMessage, type ServerResponse, request as sendRequest } from 'node:http';
import { connect, type Socket } from 'node:net';
import type { Duplex } from 'node:stream';

/** An HTTP proxy (RFC 9110, CONNECT; RFC 9112, absolute form) that finds every name on this machine. */
export interface ConnectProxy {
  readonly url: string;
  /** `CONNECT host:port`, `GET http://…`: what it was asked for, in order. */
  readonly asked: readonly string[];
  stop(): Promise<void>;
}

/** @param authorization the `Proxy-Authorization` that it asks for */
export async function startConnectProxy(authorization?: string): Promise<ConnectProxy> {
  const asked: string[] = [];
  const isWelcome = (request: IncomingMessage) => {
    asked.push(`${request.method} ${request.url}`);
    return authorization === undefined || request.headers['proxy-authorization'] === authorization;
  };
  const forward = (request: IncomingMessage, response: ServerResponse) => {
    if (!isWelcome(request)) {
      response.writeHead(407).end();
      return;
    }
    const { port, pathname, search } = new URL(request.url ?? '');
    const { method, headers } = request;
    const options = { host: '127.0.0.1', port, path: `${pathname}${search}`, method, headers };
    sendRequest(options, (answer) => {
      response.writeHead(answer.statusCode ?? 502, answer.headers);
      answer.pipe(response);
    })
      .on('error', () => response.writeHead(502).end())
      .end();
  };
  const sockets = new Set<Duplex>();
  const server = createServer(forward).listen(0, '127.0.0.1');
  server.on('connect', (request: IncomingMessage, socket: Duplex) => {
    if (!isWelcome(request)) {
      socket.end('HTTP/1.1 407 Proxy Authentication Required\r\n\r\n');
      return;
    }
    const tunnel: Socket = connect(Number((request.url ?? '').split(':').at(-1)), '127.0.0.1', () => {
      socket.write('HTTP/1.1 200 Connection established\r\n\r\n');
      socket.pipe(tunnel).pipe(socket);
    });
    for (const end of [socket, tunnel]) {
      sockets.add(end);
      end
        .on('error', () => {})
        .on('close', () => {
          socket.destroy();
          tunnel.destroy();
        });
    }
  });
  await once(server, 'listening');
  const address = server.address();
  if (address === null || typeof address === 'string') throw new Error('a TCP server has no port');
  return {
    url: `http://127.0.0.1:${address.port}`,
    asked,
    stop: async () => {
      for (const socket of sockets) socket.destroy();
      server.closeAllConnections();
      server.close();
      await once(server, 'close');
    },
  };
}
