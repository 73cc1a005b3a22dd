import { type ChannelListener, subscribe, unsubscribe } from 'node:diagnostics_channel';
import type { IncomingHttpHeaders, IncomingMessage } from 'node:http';

/** A request as a client sent it. */
export interface RecordedRequest {
  readonly method: string;
  /** Without its query. */
  readonly path: string;
  readonly query: string;
  readonly headers: IncomingHttpHeaders;
}

/** Node's own channel of requests that come to any HTTP server of this process. */
const CHANNEL = 'http.server.request.start';

/** Writes down what comes to a server of this process, before the server sees it. */
export class RequestRecorder {
  readonly requests: RecordedRequest[] = [];
  readonly #port: number;

  /** @param url of the server, with its port */
  constructor(url: string) {
    this.#port = Number(new URL(url).port);
    subscribe(CHANNEL, this.#record);
  }

  /** What was recorded so far; from here on it begins anew. */
  take(): RecordedRequest[] {
    return this.requests.splice(0);
  }

  stop(): void {
    unsubscribe(CHANNEL, this.#record);
  }

  readonly #record: ChannelListener = (message) => {
    const { request } = message as { readonly request: IncomingMessage };
    if (request.socket.localPort !== this.#port) return;
    const { method = '', url = '', headers } = request;
    const [path = '', query = ''] = url.split('?');
    this.requests.push({ method, path, query, headers });
  };
}
