import { afterEach, beforeEach, expect, test } from 'vitest';
import { type Digest, digestOf } from '../../src/oci/digest.ts';
import type { Catalog } from '../../src/store/catalog.ts';
import type { CatalogHome } from './catalog-suite.ts';

const PY = { upstream: 'docker.io', repository: 'library/python' };
const WEB = { upstream: 'docker.io', repository: 'library/web' };
const BASE = digestOf('base');
const TOP = digestOf('top');
const IMAGE = digestOf('image');
const INDEX = digestOf('index');
const ATTESTATION = digestOf('attestation');
const LAYER = digestOf('converted layer');
const TABLE = digestOf('chunk table');
const MADE_IMAGE = digestOf('converted image');
const MADE_INDEX = digestOf('converted index');

function blob(digest: Digest, sizeBytes: number, modifiedAtMs: number) {
  return { digest, sizeBytes, modifiedAtMs };
}

/** What every catalog promises about what is kept, whatever database it is in. */
export function contentSuite(home: () => Promise<CatalogHome>): void {
  let place: CatalogHome;
  let catalog: Catalog;

  beforeEach(async () => {
    place = await home();
    catalog = await place.open();
  });

  afterEach(async () => {
    await catalog.close();
  });

  const unused = async (beforeMs: number) =>
    (await catalog.blobs.leastUsed(beforeMs, null, 100)).map(({ digest }) => digest);

  test('blobs are listed from the longest unused on, and a manifest that is used keeps what it names', async () => {
    await catalog.putManifest(IMAGE, 'application/x', 3, [BASE]);
    await catalog.blobs.add([blob(BASE, 10, 1), blob(TOP, 20, 2), blob(IMAGE, 3, 3)]);
    expect(await catalog.blobs.totals()).toEqual({ count: 3, sizeBytes: 33 });
    expect(await unused(9)).toEqual([BASE, TOP, IMAGE]);
    expect(await unused(2)).toEqual([BASE, TOP]);
    await catalog.blobs.use([IMAGE], 8);
    expect(await unused(7)).toEqual([TOP]);
    expect(await catalog.blobs.get(BASE)).toEqual({
      digest: BASE,
      sizeBytes: 10,
      addedAtMs: 1,
      usedAtMs: 8,
    });
    const [first] = await catalog.blobs.leastUsed(9, null, 1);
    expect((await catalog.blobs.leastUsed(9, first!, 100)).map((each) => each.digest)).toEqual(
      [BASE, IMAGE].sort(),
    );
  });

  test('a blob that is stored or found again is as old as it was, and used since', async () => {
    await catalog.blobs.add([blob(BASE, 10, 5)]);
    await catalog.blobs.add([blob(BASE, 10, 2)]);
    expect((await catalog.blobs.get(BASE))?.usedAtMs).toBe(5);
    await catalog.blobs.add([blob(BASE, 10, 9)]);
    expect(await catalog.blobs.get(BASE)).toMatchObject({ addedAtMs: 5, usedAtMs: 9 });
    expect(await catalog.blobs.unknown([blob(BASE, 10, 1), blob(TOP, 1, 1)])).toEqual([blob(TOP, 1, 1)]);
  });

  test('blobs that were checked the longest ago are checked next', async () => {
    await catalog.blobs.add([blob(BASE, 10, 1), blob(TOP, 20, 2)]);
    expect((await catalog.blobs.nextToVerify(10))?.digest).toBe(BASE);
    await catalog.blobs.setVerified(BASE, 7);
    expect((await catalog.blobs.nextToVerify(7))?.digest).toBe(TOP);
    await catalog.blobs.setVerified(TOP, 8);
    expect(await catalog.blobs.nextToVerify(7)).toBeNull();
  });

  async function convertedIndex(): Promise<void> {
    const common = { profile: 'p', ...PY, platform: null, priority: 0, notBeforeMs: 0, policy: '' };
    const converted = (digest: Digest) => ({
      digest,
      mediaType: 'application/x',
      sizeBytes: 1,
      layerBytes: 1,
    });
    await catalog.conversions.enqueueIndex(
      { digest: INDEX, kind: 'index', ...common },
      [{ digest: IMAGE, kind: 'image', ...common }],
      [],
      1,
    );
    await catalog.putManifest(MADE_IMAGE, 'application/x', 1, [LAYER, TABLE]);
    await catalog.conversions.setDone(IMAGE, 'p', converted(MADE_IMAGE), 1);
    await catalog.putManifest(MADE_INDEX, 'application/x', 1, [MADE_IMAGE, ATTESTATION]);
    await catalog.conversions.setDone(INDEX, 'p', converted(MADE_INDEX), 1);
    await catalog.putLayer({
      ...{ chainId: digestOf('chain'), profile: 'p', blobDigest: LAYER, blobSizeBytes: 1 },
      ...{ chunkTableDigest: TABLE, tarSizeBytes: 1 },
    });
  }

  for (const [name, part] of [
    ['layer', LAYER],
    ['chunk table', TABLE],
  ] as const) {
    test(`without a converted ${name}, neither it nor the images over it are promised`, async () => {
      await convertedIndex();
      expect(await catalog.content.withdraw(part)).toEqual([MADE_IMAGE, MADE_INDEX]);
      expect(await catalog.layer(digestOf('chain'), 'p')).toBeNull();
      expect(await catalog.conversions.get(IMAGE, 'p')).toBeNull();
      expect(await catalog.conversions.get(INDEX, 'p')).toBeNull();
      expect(await catalog.manifestMediaType(MADE_IMAGE)).toBeNull();
      expect(await catalog.manifestMediaType(MADE_INDEX)).toBeNull();
    });
  }

  test('without a converted manifest, the index over it is not promised', async () => {
    await convertedIndex();
    expect(await catalog.content.withdraw(MADE_IMAGE)).toEqual([MADE_IMAGE, MADE_INDEX].slice(1));
    expect(await catalog.layer(digestOf('chain'), 'p')).not.toBeNull();
    expect(await catalog.conversions.get(INDEX, 'p')).toBeNull();
  });

  test('an original that can be fetched again takes nothing with it', async () => {
    await convertedIndex();
    for (const original of [ATTESTATION, BASE]) {
      expect(await catalog.content.withdraw(original)).toEqual([]);
    }
    expect(await catalog.conversions.get(INDEX, 'p')).toMatchObject({ state: 'done' });
  });

  test('a conversion that is queued again stays so, and promises nothing', async () => {
    await convertedIndex();
    await catalog.conversions.setDone(
      IMAGE,
      'p',
      { digest: MADE_IMAGE, mediaType: 'application/x', sizeBytes: 1, layerBytes: 1 },
      2,
    );
    await catalog.content.withdraw(LAYER);
    expect(await catalog.conversions.get(INDEX, 'p')).toMatchObject({ state: 'queued', converted: null });
  });

  test('what nothing is left of is swept away, and nothing else', async () => {
    await catalog.putManifest(IMAGE, 'application/x', 3, [BASE, TOP]);
    await catalog.link(PY, IMAGE, BASE, TOP);
    await catalog.link(WEB, ATTESTATION);
    await catalog.blobs.add([blob(IMAGE, 3, 1)]);
    await catalog.content.sweep();
    // The manifest stays: what it names is fetched again.
    expect(await catalog.isLinked(PY, BASE)).toBe(true);
    expect(await catalog.repositories()).toEqual([PY]);
    await catalog.content.withdraw(IMAGE);
    await catalog.blobs.remove([IMAGE]);
    await catalog.content.sweep();
    expect(await catalog.repositories()).toEqual([]);
  });

  test('an image that a repository forgets leaves what others have', async () => {
    await catalog.putManifest(IMAGE, 'application/x', 3, [BASE, TOP]);
    await catalog.putManifest(INDEX, 'application/x', 3, [BASE]);
    await catalog.link(PY, IMAGE, BASE, TOP);
    await catalog.link(WEB, INDEX, BASE);
    await catalog.putTag(PY, '3', { digest: IMAGE, checkedAtMs: 1 });
    expect([...(await catalog.content.unlink(PY, IMAGE))].sort()).toEqual([IMAGE, TOP].sort());
    expect(await catalog.tag(PY, '3')).toBeNull();
    expect(await catalog.isLinked(WEB, BASE)).toBe(true);
    expect([...(await catalog.content.unlink(WEB, null))].sort()).toEqual([INDEX, BASE].sort());
  });

  test('repositories and images are listed with what of them is kept', async () => {
    await catalog.putManifest(IMAGE, 'application/x', 3, [BASE, TOP]);
    await catalog.link(PY, IMAGE, BASE, TOP);
    await catalog.link(WEB, BASE);
    await catalog.putTag(PY, '3', { digest: IMAGE, checkedAtMs: 1 });
    await catalog.blobs.add([blob(IMAGE, 3, 5), blob(BASE, 10, 2)]);
    expect(await catalog.content.repositories(null, 10)).toEqual([
      { ...PY, manifests: 1, blobs: 2, keptBytes: 13, usedAtMs: 5 },
      { ...WEB, manifests: 0, blobs: 1, keptBytes: 10, usedAtMs: 2 },
    ]);
    expect((await catalog.content.repositories(PY, 10)).map(({ repository }) => repository)).toEqual([
      WEB.repository,
    ]);
    expect(await catalog.content.images(PY, 'p')).toEqual([
      {
        ...{ ...PY, digest: IMAGE, mediaType: 'application/x', keptBytes: 13, missingParts: 1 },
        ...{ usedAtMs: 5, conversion: null },
      },
    ]);
    expect(await catalog.content.tagsOf(PY)).toEqual(new Map([[IMAGE, ['3']]]));
  });
}
