import { setTimeout as sleep } from 'node:timers/promises';
import { MAX_CHUNK_TABLE_BYTES } from '../../format/chunk-table.ts';
import type { Digest } from '../../oci/digest.ts';
import { RegistryError } from '../../oci/errors.ts';
import type { RegistryClient } from '../../oci/registry-client.ts';

/** Of a chunk table: its header, and 32 bytes for each of the smallest chunks that there may be. */
export const maxChunkTableBytes = (blobBytes: number): number => 64 + 32 * Math.ceil(blobBytes / 4096);

/** How long one question may wait for a blob that is on its way to the proxy. */
const WAIT_SECONDS = 5;
/** Such a wait takes minutes: one broken connection does not end it. */
const TRIES = 4;
const PAUSE_MS = 1_000;

/**
 * The chunk table that a dadi proxy makes for any blob that its upstream has, once it has all of it: its word is all
 * there is for it. Waits for that until the signal fires.
 * @param ask calls `attempt` with a client of a proxy
 * @throws RegistryError ERR_REGISTRY_NOT_FOUND if there is no such blob, or this is no proxy; the signal's reason
 */
export async function askForChunkTable(
  ask: <T>(attempt: (client: RegistryClient) => Promise<T>) => Promise<T>,
  blob: { readonly repository: string; readonly digest: Digest },
  signal: AbortSignal,
): Promise<Buffer> {
  const { repository } = blob;
  const query = new URLSearchParams({ repository, fetch: '1', wait: String(WAIT_SECONDS) });
  const path = `dadi/v1/chunk-tables/${blob.digest}?${query}`;
  const limits = { maxBytes: MAX_CHUNK_TABLE_BYTES, signal };
  for (let failures = 0; ; ) {
    const askedAtMs = performance.now();
    try {
      const { status, bytes } = await ask((client) => client.extension(path, blob.repository, limits));
      if (status === 200) return bytes;
      failures = 0;
    } catch (error) {
      failures++;
      if (failures === TRIES || signal.aborted || isFinal(error)) throw error;
    }
    // One that waited has made the pause already; one that is being stopped, or is none of ours, does not wait.
    const pauseMs = PAUSE_MS - (failures === 0 ? performance.now() - askedAtMs : 0);
    if (pauseMs > 0) await sleep(pauseMs, undefined, { signal });
  }
}

function isFinal(error: unknown): boolean {
  if (!(error instanceof RegistryError)) return true;
  return error.code === 'ERR_REGISTRY_NOT_FOUND' || error.code === 'ERR_REGISTRY_UNAUTHORIZED';
}
