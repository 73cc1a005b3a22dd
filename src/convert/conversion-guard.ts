import { statfs } from 'node:fs/promises';
import { StoreError } from '../store/errors.ts';
import { ConvertError } from './errors.ts';
import type { ConversionLimits } from './layer-limits.ts';

const WATCH_MS = 500;
const MAX_TIMER_MS = 2 ** 31 - 1;

/**
 * Runs the conversion of one image for as long as its time lasts and the disk has room. `work` is told by its
 * signal when either is over, or `signal` fires, and has to end then.
 * @param scratch a directory on the file system that is written to
 * @throws ConvertError ERR_CONVERT_TIMEOUT, StoreError ERR_STORE_FULL, and what `work` rejects with
 */
export async function withinLimits<T>(
  { limits, scratch, signal }: { limits: ConversionLimits; scratch: string; signal: AbortSignal },
  work: (signal: AbortSignal) => Promise<T>,
): Promise<T> {
  const over = new AbortController();
  const timeMs = Math.min(limits.imageSeconds * 1000, MAX_TIMER_MS);
  const timer = setTimeout(() => over.abort(tooLong(limits)), timeMs);
  const watch = setInterval(
    () => void checkSpace(limits, scratch).catch((error) => over.abort(error)),
    WATCH_MS,
  );
  try {
    await checkSpace(limits, scratch);
    return await work(AbortSignal.any([signal, over.signal]));
  } catch (error) {
    // Whatever the work makes of it.
    if (over.signal.aborted && !signal.aborted) throw over.signal.reason;
    throw error;
  } finally {
    clearTimeout(timer);
    clearInterval(watch);
  }
}

/** Not ERR_LIMIT: upstream or this machine may be faster the next time, and finished layers are kept. */
function tooLong({ imageSeconds }: ConversionLimits): ConvertError {
  return new ConvertError(
    'ERR_CONVERT_TIMEOUT',
    `the conversion of the image took more than ${imageSeconds} s; to give it longer, raise the limit imageSeconds`,
  );
}

async function checkSpace({ minFreeBytes }: ConversionLimits, scratch: string): Promise<void> {
  const { bavail, bsize } = await statfs(scratch);
  const freeBytes = bavail * bsize;
  if (freeBytes >= minFreeBytes) return;
  throw new StoreError(
    'ERR_STORE_FULL',
    `${scratch} has ${freeBytes} bytes left, conversions leave ${minFreeBytes}; make room, or lower the limit minFreeBytes`,
  );
}
