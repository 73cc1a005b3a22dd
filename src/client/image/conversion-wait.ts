import { setTimeout as sleep } from 'node:timers/promises';
import { request } from 'undici';
import { z } from 'zod';
import { type Digest, isDigest } from '../../oci/digest.ts';
import { readUpTo } from '../../oci/registry-http.ts';
import { ClientError } from '../errors.ts';

/** How far a conversion is. */
export interface ConversionProgress {
  readonly state: 'queued' | 'running' | 'done' | 'failed' | 'left';
  readonly layersDone: number;
  readonly layersTotal: number;
  readonly bytesDone: number;
  readonly bytesTotal: number;
}

export interface ConversionWait {
  /** The proxy's address, with a slash at the end. */
  readonly baseUrl: URL;
  /** Digest of the original image's manifest. */
  readonly original: Digest;
  /** 0: do not wait, take what is there. */
  readonly waitMs: number;
  readonly onProgress?: (progress: ConversionProgress) => void;
  readonly signal?: AbortSignal;
}

const statusSchema = z.object({
  state: z.enum(['queued', 'running', 'done', 'failed', 'left']),
  layersDone: z.number(),
  layersTotal: z.number(),
  bytesDone: z.number(),
  bytesTotal: z.number(),
  converted: z.object({ digest: z.string().refine(isDigest) }).nullable(),
  error: z.string().nullable(),
});

type ConversionStatus = z.infer<typeof statusSchema>;

const POLL_MS = 250;
/** A proxy queues an image when its manifest is pulled; who has not heard of it after this never will. */
const UNKNOWN_GRACE_MS = 1_500;
const REQUEST_TIMEOUT_MS = 10_000;
const MAX_ANSWER_BYTES = 64 * 1024;

/**
 * Waits until a proxy has converted an image: the digest of the converted manifest.
 * @throws ClientError ERR_IMAGE_NOT_CONVERTED if nobody converts it, ERR_CONVERSION_FAILED with the proxy's
 *   reason, ERR_CONVERSION_TIMEOUT; the signal's reason
 */
export async function waitForConversion(options: ConversionWait): Promise<Digest> {
  const { original, waitMs, signal } = options;
  const startMs = performance.now();
  let last: ConversionStatus | null = null;
  for (;;) {
    const status = await askStatus(options).catch((error) => {
      // Once it has been heard of, a proxy that is away for a while goes on with it when it is back.
      if (last === null || signal?.aborted) throw error;
      return null;
    });
    last = status ?? last;
    const waitedMs = performance.now() - startMs;
    if (status !== null) options.onProgress?.(status);
    if (status?.state === 'failed' || status?.state === 'left') {
      const reason = status.error ?? 'it gives no reason';
      const what = status.state === 'left' ? 'does not convert' : 'could not convert';
      throw new ClientError(
        'ERR_CONVERSION_FAILED',
        `${options.baseUrl.host} ${what} ${original}: ${reason}`,
      );
    }
    if (status?.state === 'done' && status.converted !== null) return status.converted.digest;
    if (last === null && waitedMs >= Math.min(UNKNOWN_GRACE_MS, waitMs)) {
      throw new ClientError(
        'ERR_IMAGE_NOT_CONVERTED',
        `${options.baseUrl.host} has no converted form of ${original}, and does not convert it; is it a dadi proxy?`,
      );
    }
    if (waitedMs >= waitMs) throw timedOut(options, last);
    await sleep(Math.min(POLL_MS, waitMs - waitedMs), undefined, signal && { signal });
  }
}

function timedOut({ original, waitMs }: ConversionWait, status: ConversionProgress | null): ClientError {
  const { layersDone = 0, layersTotal = 0, state = 'queued' } = status ?? {};
  return new ClientError(
    'ERR_CONVERSION_TIMEOUT',
    `${original} is not converted after ${Math.round(waitMs / 1000)} s (${state}, ${layersDone} of ${layersTotal} layers); it goes on: try again later, or wait longer`,
  );
}

/** Null where the proxy does not know of the conversion, or the registry is no proxy. */
async function askStatus(options: ConversionWait): Promise<ConversionStatus | null> {
  const url = new URL(`dadi/v1/conversions/${options.original}`, options.baseUrl);
  const timeout = AbortSignal.timeout(REQUEST_TIMEOUT_MS);
  const signal = options.signal === undefined ? timeout : AbortSignal.any([options.signal, timeout]);
  let text: string;
  try {
    const { statusCode, body } = await request(url, { signal });
    const context = { host: url.host, repository: null, reference: options.original };
    text = (await readUpTo(body, MAX_ANSWER_BYTES, context)).toString('utf8');
    if (statusCode !== 200) return null;
  } catch (cause) {
    options.signal?.throwIfAborted();
    throw new ClientError('ERR_IMAGE_NOT_CONVERTED', `cannot ask ${url.host} about the conversion`, {
      cause,
    });
  }
  try {
    return statusSchema.parse(JSON.parse(text));
  } catch {
    return null;
  }
}
