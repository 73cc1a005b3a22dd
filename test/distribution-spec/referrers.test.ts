import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test, vi } from 'vitest';
import { OVERLAYBD_ARTIFACT_TYPE } from '../../src/oci/annotations.ts';
import { type Digest, digestOf } from '../../src/oci/digest.ts';
import type { Descriptor } from '../../src/oci/manifest.ts';
import { OCI_INDEX, OCI_MANIFEST } from '../../src/oci/media-types.ts';
import { requireCapability } from '../support/capabilities.ts';
import { FakeRegistry } from '../support/fake-registry.ts';
import { makeIndex } from '../support/made-image.ts';
import { freshImage } from '../support/spec-images.ts';
import { lastingHeaders, nextOf, SpecRegistry } from '../support/spec-registry.ts';
import { bytesOf, errorOf, TestProxy } from '../support/test-proxy.ts';

const canRun = requireCapability('registry');
const SBOM = 'application/vnd.example.sbom+json';
const SIGNATURE = 'application/vnd.example.signature';

interface Listed {
  readonly schemaVersion: number;
  readonly mediaType: string;
  readonly manifests: readonly Descriptor[];
}

async function listed(response: Response): Promise<Listed> {
  expect(response.status).toBe(200);
  expect(response.headers.get('content-type')).toBe(OCI_INDEX);
  const list = (await response.json()) as Listed;
  expect(list).toMatchObject({ schemaVersion: 2, mediaType: OCI_INDEX });
  return list;
}

async function digestsAt(proxy: TestProxy, path: string): Promise<Digest[]> {
  return (await listed(await proxy.fetch(path))).manifests.map(({ digest }) => digest);
}

describe.skipIf(!canRun)('Referrers Tag Schema: a registry without the referrers API', () => {
  let spec: SpecRegistry;
  const NAME = 'refer/tags';
  let image: Digest;
  let artifacts: { digest: Digest; artifactType: string }[];
  let path: string;

  /** What clients push to such a registry: the index that the digest's own tag names. */
  async function pushTagged(subject: Digest, types: readonly string[]): Promise<typeof artifacts> {
    const entries = types.map((artifactType) => {
      const made = freshImage({ manifest: { artifactType, annotations: { of: artifactType } } });
      return { made, more: { artifactType, annotations: { of: artifactType } } };
    });
    await spec.push(NAME, subject.replace(':', '-'), makeIndex(entries));
    return entries.map(({ made, more }) => ({ digest: made.descriptor.digest, ...more }));
  }

  beforeAll(async () => {
    if (!canRun) return;
    spec = await SpecRegistry.start({ conversion: { concurrency: 1 } });
    image = await spec.push(NAME, '1', freshImage());
    artifacts = await pushTagged(image, [SBOM, SIGNATURE]);
    path = `/v2/${NAME}/referrers/${image}`;
  });
  afterAll(async () => {
    if (canRun) await spec.remove();
  });

  test('what the tag of the digest lists are the referrers', async () => {
    const { manifests } = await listed(await spec.proxy.fetch(path));
    expect(manifests).toMatchObject(artifacts);
  });

  test('artifactType filters them, and OCI-Filters-Applied says so', async () => {
    const all = await spec.proxy.fetch(path);
    expect(all.headers.get('oci-filters-applied')).toBeNull();
    const some = await spec.proxy.fetch(`${path}?artifactType=${encodeURIComponent(SBOM)}`);
    expect(some.headers.get('oci-filters-applied')).toBe('artifactType');
    expect((await listed(some)).manifests).toMatchObject([artifacts[0]!]);
    const none = await spec.proxy.fetch(`${path}?artifactType=application%2Fnone`);
    expect(none.headers.get('oci-filters-applied')).toBe('artifactType');
    expect((await listed(none)).manifests).toEqual([]);
  });

  test('never 404: an unknown digest and an unknown repository have an empty list', async () => {
    for (const empty of [`/v2/${NAME}/referrers/${digestOf('x')}`, `/v2/refer/none/referrers/${image}`]) {
      expect(await digestsAt(spec.proxy, empty)).toEqual([]);
    }
  });

  test('what is no digest is 400 DIGEST_INVALID', async () => {
    for (const text of ['latest', 'sha256:abc', image.toUpperCase()]) {
      const response = await spec.proxy.fetch(`/v2/${NAME}/referrers/${text}`);
      expect(await errorOf(response)).toMatchObject({ status: 400, code: 'DIGEST_INVALID' });
    }
  });

  test('HEAD says what GET says', async () => {
    const head = await spec.proxy.fetch(path, { method: 'HEAD' });
    expect(lastingHeaders(head)).toEqual(lastingHeaders(await spec.proxy.fetch(path)));
  });

  test('the converted image is one of them, with all that a descriptor says', async () => {
    const original = await spec.push(NAME, '2', freshImage({ layerBytes: 10_000 }));
    const [signature] = await pushTagged(original, [SIGNATURE]);
    await spec.proxy.fetch(`/v2/${NAME}/manifests/${original}`);
    const referrers = `/v2/${NAME}/referrers/${original}`;
    const converted = await vi.waitFor(
      async () => {
        const { manifests } = await listed(await spec.proxy.fetch(referrers));
        expect(manifests).toHaveLength(2);
        expect(manifests[1]).toMatchObject(signature!);
        return manifests[0]!;
      },
      { timeout: 60_000, interval: 100 },
    );
    expect(converted).toMatchObject({ mediaType: OCI_MANIFEST, artifactType: OVERLAYBD_ARTIFACT_TYPE });
    const manifest = await bytesOf(await spec.proxy.fetch(`/v2/${NAME}/manifests/${converted.digest}`));
    expect([digestOf(manifest), manifest.length]).toEqual([converted.digest, converted.size]);
    expect(JSON.parse(manifest.toString())).toMatchObject({ subject: { digest: original } });
    const filtered = `${referrers}?artifactType=${encodeURIComponent(OVERLAYBD_ARTIFACT_TYPE)}`;
    expect(await digestsAt(spec.proxy, filtered)).toEqual([converted.digest]);
  });
});

describe('Listing Referrers: a registry with the referrers API', () => {
  const SUBJECT = digestOf('subject');
  const PATH = `/v2/lib/a/referrers/${SUBJECT}`;
  let upstream: FakeRegistry;
  let proxy: TestProxy;

  async function startProxy(tagTtlMs: number): Promise<void> {
    const upstreams = [{ name: 'reg.example', url: upstream.url }];
    proxy = await TestProxy.start({ upstreams, tagTtlMs, conversion: { enabled: false } });
  }

  beforeEach(async () => {
    upstream = await FakeRegistry.start();
    await startProxy(0);
  });
  afterEach(async () => {
    await proxy.remove();
    await upstream.stop();
  });

  function descriptorsOf(count: number, annotationBytes = 0): Descriptor[] {
    return Array.from({ length: count }, (_, at) => ({
      mediaType: OCI_MANIFEST,
      digest: digestOf(String(at)),
      size: at,
      artifactType: at % 2 === 0 ? SBOM : SIGNATURE,
      annotations: { filler: 'x'.repeat(annotationBytes) },
    }));
  }

  /** Answers referrers in pages, each with a link to the next. */
  function answerInPages(pages: readonly (readonly Descriptor[])[]): void {
    upstream.intercept = (request, response) => {
      const { pathname, searchParams } = new URL(request.url!, upstream.url);
      if (!pathname.includes('/referrers/')) return false;
      const at = Number(searchParams.get('page') ?? 0);
      const isEnd = at === pages.length - 1;
      const link = { link: `<${pathname}?page=${at + 1}>; rel="next"` };
      response.writeHead(200, { 'content-type': OCI_INDEX, ...(isEnd ? {} : link) });
      response.end(JSON.stringify({ schemaVersion: 2, mediaType: OCI_INDEX, manifests: pages[at] }));
      return true;
    };
  }

  async function walk(path: string): Promise<{ pages: Descriptor[][]; largestBytes: number }> {
    const pages: Descriptor[][] = [];
    let largestBytes = 0;
    for (let next: string | null = path; next !== null && pages.length < 50; ) {
      const response: Response = await proxy.fetch(next);
      next = nextOf(response);
      const bytes = await bytesOf(response);
      largestBytes = Math.max(largestBytes, bytes.length);
      pages.push((JSON.parse(bytes.toString()) as Listed).manifests as Descriptor[]);
    }
    return { pages, largestBytes };
  }

  test('descriptors come as upstream has them, also fields that nobody knows', async () => {
    const descriptors = descriptorsOf(3).map((one) => ({ ...one, 'org.example.new': { deep: [1] } }));
    upstream.putReferrers(SUBJECT, descriptors);
    expect((await listed(await proxy.fetch(PATH))).manifests).toEqual(descriptors);
  });

  test('all pages of upstream are one list', async () => {
    const descriptors = descriptorsOf(5);
    answerInPages([descriptors.slice(0, 2), descriptors.slice(2, 4), descriptors.slice(4)]);
    expect((await walk(PATH)).pages).toEqual([descriptors]);
  });

  test('n and last give parts, and Link leads through all of them with the filter', async () => {
    upstream.putReferrers(SUBJECT, descriptorsOf(9));
    const { pages } = await walk(`${PATH}?artifactType=${encodeURIComponent(SBOM)}&n=2`);
    expect(pages.map((page) => page.length)).toEqual([2, 2, 1]);
    expect(pages.flat().every(({ artifactType }) => artifactType === SBOM)).toBe(true);
    expect(new Set(pages.flat().map(({ digest }) => digest)).size).toBe(5);
    const next = nextOf(await proxy.fetch(`${PATH}?ns=reg.example&n=2`));
    expect(next).toMatch(new RegExp(`^${PATH}\\?ns=reg\\.example&n=2&last=sha256%3A[0-9a-f]{64}$`));
    expect(await digestsAt(proxy, `${PATH}?n=0`)).toEqual([]);
    expect(await errorOf(await proxy.fetch(`${PATH}?n=x`))).toMatchObject({
      status: 400,
      code: 'PAGINATION_NUMBER_INVALID',
    });
  });

  test('a list that is too long for one manifest comes in pages of at most 4 MiB', async () => {
    const descriptors = descriptorsOf(90, 100_000);
    answerInPages([descriptors.slice(0, 30), descriptors.slice(30, 60), descriptors.slice(60)]);
    const { pages, largestBytes } = await walk(PATH);
    expect(pages.length).toBe(3);
    expect(largestBytes).toBeLessThanOrEqual(4 * 1024 * 1024);
    const digests = pages.flat().map(({ digest }) => digest);
    expect(digests).toEqual(descriptors.map(({ digest }) => digest).toSorted());
  });

  test('a list is believed for the time that tags are, and then asked for again', async () => {
    await proxy.remove();
    await startProxy(60_000);
    upstream.putReferrers(SUBJECT, descriptorsOf(1));
    const other = `/v2/lib/a/referrers/${digestOf('other')}`;
    for (let round = 0; round < 3; round++) {
      expect(await digestsAt(proxy, PATH)).toHaveLength(1);
      expect(await digestsAt(proxy, other)).toHaveLength(0);
    }
    expect(upstream.count('GET', SUBJECT)).toBe(1);
    expect(upstream.count('GET', digestOf('other'))).toBe(1);
    await proxy.remove();
    await startProxy(0);
    await digestsAt(proxy, PATH);
    upstream.putReferrers(SUBJECT, descriptorsOf(2));
    expect(await digestsAt(proxy, PATH)).toHaveLength(2);
  });

  test('without upstream the list is the last one, with Warning, also after a restart', async () => {
    const descriptors = descriptorsOf(3);
    upstream.putReferrers(SUBJECT, descriptors);
    await proxy.fetch(PATH);
    await upstream.stop();
    for (const round of ['before', 'after']) {
      const response = await proxy.fetch(PATH);
      expect(response.headers.get('warning'), round).toMatch(
        /^299 - "reg\.example cannot be asked .* this is of /,
      );
      expect((await listed(response)).manifests).toEqual(descriptors);
      await proxy.stop();
      await proxy.start();
    }
    const unknown = await proxy.fetch(`/v2/lib/a/referrers/${digestOf('other')}`);
    expect(unknown.headers.get('warning')).toContain('cannot be asked');
    expect((await listed(unknown)).manifests).toEqual([]);
    // The list is kept under a name of its own, which is no tag.
    expect(await errorOf(await proxy.fetch('/v2/lib/a/tags/list'))).toMatchObject({ status: 503 });
  });

  test('what is gone upstream is gone here, also from what is kept for bad times', async () => {
    upstream.putReferrers(SUBJECT, descriptorsOf(1));
    await proxy.fetch(PATH);
    upstream.putReferrers(SUBJECT, []);
    expect(await digestsAt(proxy, PATH)).toEqual([]);
    await upstream.stop();
    expect(await digestsAt(proxy, PATH)).toEqual([]);
  });

  test('a list that upstream refuses is not given from what is kept', async () => {
    upstream.putReferrers(SUBJECT, descriptorsOf(1));
    await proxy.fetch(PATH);
    upstream.intercept = (_request, response) => {
      response.writeHead(403).end();
      return true;
    };
    const response = await proxy.fetch(PATH);
    expect(response.headers.get('warning')).toContain('ERR_REGISTRY_UNAUTHORIZED');
    expect((await listed(response)).manifests).toEqual([]);
  });

  test('a list that cannot be read is an empty one with Warning', async () => {
    upstream.intercept = (_request, response) => {
      response.writeHead(200, { 'content-type': OCI_INDEX }).end('<html>');
      return true;
    };
    const response = await proxy.fetch(PATH);
    expect(response.headers.get('warning')).toContain('ERR_REGISTRY_PROTOCOL');
    expect((await listed(response)).manifests).toEqual([]);
  });
});
