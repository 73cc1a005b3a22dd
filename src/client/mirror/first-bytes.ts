import { unlessAborted } from '../../format/unless-aborted.ts';
import type { ByteRange } from '../../oci/serving/range.ts';
import { RequestError } from '../../oci/serving/request-error.ts';
import type { StreamSource } from '../../oci/serving/stream.ts';

/** Clients wait 30 seconds for headers, and two may be asked in turn. */
const FIRST_BYTES_MS = 12_000;

/**
 * Nothing of a blob is sent before its first bytes are here: until then the client can be sent elsewhere.
 * @throws RequestError UNAVAILABLE when they do not come; the signal's reason
 */
export async function firstBytes(source: StreamSource, range: ByteRange, signal: AbortSignal): Promise<void> {
  if (range.start === range.end) return;
  const ends = AbortSignal.any([signal, AbortSignal.timeout(FIRST_BYTES_MS)]);
  try {
    await unlessAborted(source.readableTo(range, ends), ends);
  } catch {
    signal.throwIfAborted();
    throw new RequestError('UNAVAILABLE', 'no dadi proxy sends the blob at this moment');
  }
}
