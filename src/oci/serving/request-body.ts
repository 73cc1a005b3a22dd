import type { IncomingMessage } from 'node:http';
import { readAtMost } from '../bounded-body.ts';
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
    const isTooBig = Number(this.#incoming.headers['content-length'] ?? 0) > maxBytes;
    // What is not read here the listener's time-out for requests ends.
    const body = this.#incoming.iterator({ destroyOnReturn: false });
    const bytes = isTooBig ? null : await readAtMost(body, maxBytes);
    if (bytes === null) throw new RequestError('SIZE_INVALID', `a body may have ${maxBytes} bytes here`);
    try {
      return JSON.parse(bytes.toString('utf8'));
    } catch {
      throw new RequestError('NAME_INVALID', 'the body is not JSON');
    }
  }
}
