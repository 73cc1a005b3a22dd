import type { IncomingMessage } from 'node:http';
import { RequestError } from './request-error.ts';

/** A request's body, which is read only if its handler wants it. */
export class RequestBody {
  readonly #incoming: IncomingMessage;

  constructor(incoming: IncomingMessage) {
    this.#incoming = incoming;
  }

  /** Whether bytes may follow on the connection that are not of the next request. */
  get isLeft(): boolean {
    const { headers, complete } = this.#incoming;
    const hasBody = headers['transfer-encoding'] !== undefined || (headers['content-length'] ?? '0') !== '0';
    return hasBody && !complete;
  }

  /**
   * The whole body as JSON, unchecked. To be called once, by who has found out that the caller may ask.
   * @throws RequestError SIZE_INVALID (more bytes than these), NAME_INVALID (not JSON)
   */
  async json(maxBytes: number): Promise<unknown> {
    const tooBig = () => new RequestError('SIZE_INVALID', `a body may have ${maxBytes} bytes here`);
    if (Number(this.#incoming.headers['content-length'] ?? 0) > maxBytes) throw tooBig();
    const pieces: Buffer[] = [];
    let bytes = 0;
    // What is not read here the listener's time-out for requests ends.
    for await (const piece of this.#incoming.iterator({ destroyOnReturn: false })) {
      pieces.push(piece);
      bytes += piece.length;
      if (bytes > maxBytes) throw tooBig();
    }
    try {
      return JSON.parse(Buffer.concat(pieces).toString('utf8'));
    } catch {
      throw new RequestError('NAME_INVALID', 'the body is not JSON');
    }
  }
}
