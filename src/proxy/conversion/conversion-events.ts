import { once } from 'node:events';
import type { ServerResponse } from 'node:http';
import { unlessAborted } from '../../format/unless-aborted.ts';
import type { Answer, StreamedBody } from '../../oci/serving/answer.ts';
import { RequestError } from '../../oci/serving/request-error.ts';
import type { ConversionNews } from './conversion-news.ts';
import type { ConversionStatus } from './conversion-status.ts';

/** Between two looks at the progress. */
const LOOK_MS = 1_000;
/** Something is sent at least so often, or proxies in between take the connection for dead. */
const HEARTBEAT_MS = 15_000;
/** Then the client asks again. */
const MAX_STREAM_MS = 60 * 60_000;
const MAX_STREAMS = 200;

/** Server-sent events of conversions (HTML standard, "Server-sent events"). */
export class ConversionEvents {
  readonly #news: ConversionNews;
  #streams = 0;

  constructor(news: ConversionNews) {
    this.#news = news;
  }

  /**
   * `progress` each time something changes, then `done`, `failed` or `left`, after which the stream ends. The data is
   * the conversion's status.
   * @throws RequestError UNAVAILABLE if too many listen; what `status` rejects with
   */
  async answer(status: () => Promise<ConversionStatus>): Promise<Answer> {
    if (this.#streams >= MAX_STREAMS) {
      throw new RequestError('UNAVAILABLE', `${MAX_STREAMS} listen already`, {
        headers: { 'retry-after': '30' },
      });
    }
    // Counted before anything is waited for: many come at once.
    this.#streams++;
    const first = await status().catch((error: unknown) => {
      this.#streams--;
      throw error;
    });
    const body: StreamedBody = {
      send: (outgoing, signal) => this.#send(outgoing, first, status, signal),
      close: async () => void this.#streams--,
    };
    const headers = { 'content-type': 'text/event-stream', 'cache-control': 'no-store' };
    return { status: 200, headers, body };
  }

  async #send(
    outgoing: ServerResponse,
    first: ConversionStatus,
    status: () => Promise<ConversionStatus>,
    signal: AbortSignal,
  ): Promise<void> {
    const endMs = Date.now() + MAX_STREAM_MS;
    let sent = '';
    let sentMs = 0;
    for (let latest = first; ; ) {
      const event = eventOf(latest);
      // The time that it takes grows all the while.
      const data = JSON.stringify({ ...latest, durationMs: event === 'progress' ? null : latest.durationMs });
      if (data !== sent) {
        await write(outgoing, `event: ${event}\ndata: ${data}\n\n`, signal);
        [sent, sentMs] = [data, Date.now()];
      } else if (Date.now() - sentMs >= HEARTBEAT_MS) {
        await write(outgoing, ': nothing new\n\n', signal);
        sentMs = Date.now();
      }
      if (event !== 'progress' || this.#news.closed.aborted || Date.now() >= endMs) break;
      const news = this.#news.next;
      await this.#news.waitFor(news, LOOK_MS, signal);
      signal.throwIfAborted();
      latest = await status();
    }
    outgoing.end();
  }
}

/** One that is tried again by itself has failed all the same: whoever waits had better not. */
function eventOf({ state }: ConversionStatus): 'progress' | 'done' | 'failed' | 'left' {
  return state === 'queued' || state === 'running' ? 'progress' : state;
}

async function write(outgoing: ServerResponse, text: string, signal: AbortSignal): Promise<void> {
  if (!outgoing.write(text)) await unlessAborted(once(outgoing, 'drain'), signal);
}
