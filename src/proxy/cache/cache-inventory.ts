import type { Logger } from 'pino';
import type { Digest } from '../../oci/digest.ts';
import type { BlobStore, ListedBlob } from '../../store/blob-store.ts';
import type { Catalog } from '../../store/catalog.ts';
import { partsOf } from '../content/manifests.ts';

const LEASE = 'cache-inventory';
const LEASE_MS = 10 * 60_000;
const BATCH = 500;

export interface InventoryParts {
  readonly store: BlobStore;
  readonly catalog: Catalog;
  /** Takes back what was promised with a blob that is lost. */
  readonly forget: (digest: Digest) => Promise<void>;
  readonly log: Logger;
  readonly signal: AbortSignal;
}

/**
 * Makes the catalog agree with what the store really holds, after a crash, a restored backup, files that somebody
 * removed by hand. One replica does it. Rejects with StoreError or the signal's reason.
 */
export async function takeInventory(parts: InventoryParts): Promise<void> {
  const { store, catalog, log, signal } = parts;
  const startedMs = Date.now();
  if (!(await catalog.leases.take(LEASE, startedMs + LEASE_MS, startedMs))) return;
  try {
    const { found, present } = await addFound(parts);
    const lost = await removeLost(parts, present, startedMs);
    for (const { digest, mediaType } of await catalog.content.withoutParts()) {
      signal.throwIfAborted();
      const source = await store.open(digest);
      if (source === null) continue;
      try {
        const bytes = Buffer.alloc(source.size);
        await source.read(0, bytes, signal);
        await catalog.content.putParts(digest, partsOf({ bytes, mediaType }));
      } finally {
        await source.close();
      }
    }
    log.info({ blobs: present.size, found, lost, ms: Date.now() - startedMs }, 'the cache was listed');
  } finally {
    await catalog.leases.release(LEASE);
  }
}

/** What the store has and the catalog does not know. */
async function addFound({ store, catalog, signal }: InventoryParts) {
  const present = new Set<string>();
  let found = 0;
  let batch: ListedBlob[] = [];
  const add = async () => {
    const unknown = await catalog.blobs.unknown(batch);
    await catalog.blobs.add(unknown);
    found += unknown.length;
    batch = [];
  };
  for await (const blob of store.list()) {
    signal.throwIfAborted();
    present.add(blob.digest);
    batch.push(blob);
    if (batch.length === BATCH) await add();
  }
  await add();
  return { found, present };
}

/** What the catalog believes in and the store has no more: what needs it is not promised any longer. */
async function removeLost(
  { store, catalog, forget, signal }: InventoryParts,
  present: ReadonlySet<string>,
  startedMs: number,
): Promise<number> {
  let lost = 0;
  for (let after = ''; ; ) {
    const page = await catalog.blobs.list(after, BATCH);
    for (const { digest, addedAtMs } of page) {
      signal.throwIfAborted();
      if (present.has(digest) || addedAtMs >= startedMs) continue;
      if ((await store.stat(digest)) !== null) continue;
      await forget(digest);
      lost++;
    }
    const last = page.at(-1);
    if (last === undefined) return lost;
    after = last.digest;
  }
}
