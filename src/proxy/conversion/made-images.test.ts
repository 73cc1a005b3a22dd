import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { digestOf } from '../../oci/digest.ts';
import { Catalog } from '../../store/catalog.ts';
import { DirectoryBlobStore } from '../../store/directory-blob-store.ts';
import { withdrawUnlessKept } from './made-images.ts';

test('a conversion that lost a layer before it was known to be done is not promised', async () => {
  const directory = mkdtempSync(join(tmpdir(), 'dadi-made-'));
  const store = await DirectoryBlobStore.open(directory);
  const catalog = await Catalog.openSqlite(':memory:');
  const original = digestOf('original');
  const [layer, manifest] = [await store.put(Buffer.from('layer')), await store.put(Buffer.from('manifest'))];
  const made = { digest: manifest, mediaType: 'application/x', sizeBytes: 8, layerBytes: 5, parts: [layer] };
  await catalog.conversions.enqueue(
    {
      ...{ digest: original, profile: 'p', kind: 'image', platform: null, priority: 0, notBeforeMs: 0 },
      ...{ upstream: 'a.io', repository: 'lib/a', policy: '' },
    },
    1,
  );
  await catalog.putManifest(manifest, made.mediaType, made.sizeBytes, made.parts);
  await catalog.conversions.setDone(original, 'p', made, 2);
  await withdrawUnlessKept({ store, catalog }, made);
  expect(await catalog.conversions.get(original, 'p')).toMatchObject({ state: 'done' });
  await store.remove(layer);
  await withdrawUnlessKept({ store, catalog }, made);
  expect(await catalog.conversions.get(original, 'p')).toBeNull();
  await catalog.close();
  await store.close();
  rmSync(directory, { recursive: true });
});
