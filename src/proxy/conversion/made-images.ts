import type { BlobStore } from '../../store/blob-store.ts';
import type { Catalog } from '../../store/catalog.ts';
import type { MadeManifest } from './conversion-queue.ts';

/**
 * Takes a conversion back of which cleaning up has removed something before the catalog knew that it is needed: the
 * next pull converts again.
 */
export async function withdrawUnlessKept(
  { store, catalog }: { readonly store: BlobStore; readonly catalog: Catalog },
  { digest, parts }: MadeManifest,
): Promise<void> {
  for (const one of [digest, ...parts]) {
    if ((await store.stat(one)) === null) await catalog.content.withdraw(one);
  }
}
