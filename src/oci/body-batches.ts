import type { Readable } from 'node:stream';

/** What may wait here while the reader is at work with the batch before. */
const MAX_WAITING_BYTES = 1024 * 1024;

/**
 * A body as it comes: whatever came while the reader was at work comes as one batch, its pieces as they are, where
 * iterating over the stream would copy them together. Throws what the body fails with, after all that came before;
 * whoever stops reading ends the body.
 */
export async function* batchesOf(body: Readable): AsyncGenerator<readonly Buffer[], void, void> {
  let waiting: Buffer[] = [];
  let waitingBytes = 0;
  let ending: { readonly failure: unknown } | null = null;
  let news = Promise.withResolvers<void>();
  const end = (failure: unknown) => {
    ending ??= { failure };
    news.resolve();
  };
  body.on('data', (piece: Buffer) => {
    waiting.push(piece);
    waitingBytes += piece.length;
    if (waitingBytes >= MAX_WAITING_BYTES) body.pause();
    news.resolve();
  });
  body.once('end', () => end(null));
  body.once('error', end);
  body.once('close', () => end(new Error('the connection was closed before the end')));
  // Of what happened before anybody listened there is no news.
  if (body.errored !== null) end(body.errored);
  else if (body.readableEnded) end(null);
  else if (body.destroyed) end(new Error('the connection was closed before the end'));
  const endingNow = (): { readonly failure: unknown } | null => ending;
  try {
    while (true) {
      if (waiting.length > 0) {
        const batch = waiting;
        waiting = [];
        waitingBytes = 0;
        body.resume();
        yield batch;
        continue;
      }
      const ended = endingNow();
      if (ended !== null) {
        if (ended.failure === null) return;
        throw ended.failure;
      }
      await news.promise;
      news = Promise.withResolvers<void>();
    }
  } finally {
    // An error of a body that nobody reads any more concerns nobody.
    body.on('error', () => {}).destroy();
  }
}
