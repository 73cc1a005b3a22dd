import { afterEach, beforeEach, expect, test } from 'vitest';
import { type Digest, digestOf } from '../../src/oci/digest.ts';
import type { Catalog } from '../../src/store/catalog.ts';
import {
  type ConversionFailure,
  type ConversionRequest,
  type ConversionTable,
  LEFT_CODE,
} from '../../src/store/conversion-table.ts';

/** An empty database of its own. */
export interface CatalogHome {
  /** May be called again when what it gave before was closed: what was written is there. */
  open(): Promise<Catalog>;
}

const PY = { upstream: 'docker.io', repository: 'library/python' };
const WEB = { upstream: 'docker.io', repository: 'library/web' };
const A = digestOf('a');
const B = digestOf('b');
const C = digestOf('c');
const INDEX = digestOf('index');
const CONVERTED = { digest: digestOf('converted'), mediaType: 'application/x', sizeBytes: 9, layerBytes: 5 };
const LEASE_MS = 1_000;

/** What every catalog promises, whatever database it is in. */
export function catalogSuite(home: () => Promise<CatalogHome>): void {
  let place: CatalogHome;
  let catalog: Catalog;
  let table: ConversionTable;

  const reopen = async () => {
    await catalog.close();
    catalog = await place.open();
    table = catalog.conversions;
  };
  const take = async (nowMs: number) => {
    const record = await table.takeNext('p', nowMs + LEASE_MS, nowMs);
    return record?.digest ?? null;
  };

  beforeEach(async () => {
    place = await home();
    catalog = await place.open();
    table = catalog.conversions;
  });

  afterEach(async () => {
    await catalog.close();
  });

  test('what was written is there after a restart', async () => {
    await catalog.putManifest(A, 'application/x', 12, []);
    await catalog.link(PY, A, B);
    await catalog.putTag(PY, '3', { digest: A, checkedAtMs: 1_764_000_000_123 });
    await reopen();
    expect(await catalog.manifestMediaType(A)).toBe('application/x');
    expect(await catalog.isLinked(PY, B)).toBe(true);
    expect(await catalog.tag(PY, '3')).toEqual({ digest: A, checkedAtMs: 1_764_000_000_123 });
  });

  test('a digest linked to one repository is not linked to another', async () => {
    await catalog.link(PY, A);
    await catalog.link(PY, A, A);
    expect(await catalog.isLinked(PY, A)).toBe(true);
    expect(await catalog.isLinked(WEB, A)).toBe(false);
    expect(await catalog.isLinked({ ...PY, upstream: 'quay.io' }, A)).toBe(false);
  });

  test('a tag moves, is listed in order of bytes and can be forgotten', async () => {
    await catalog.putTag(PY, 'b', { digest: A, checkedAtMs: 1 });
    await catalog.putTag(PY, 'a', { digest: A, checkedAtMs: 1 });
    await catalog.putTag(PY, 'B', { digest: A, checkedAtMs: 1 });
    await catalog.putTag(PY, 'b', { digest: B, checkedAtMs: 2 });
    expect(await catalog.tag(PY, 'b')).toEqual({ digest: B, checkedAtMs: 2 });
    expect(await catalog.tags(PY)).toEqual(['B', 'a', 'b']);
    expect(await catalog.tags(WEB)).toEqual([]);
    await catalog.removeTag(PY, 'a');
    expect(await catalog.tag(PY, 'a')).toBeNull();
    expect(await catalog.repositories()).toEqual([PY]);
  });

  test('a converted layer is found by chain and profile', async () => {
    const record = {
      chainId: A,
      profile: 'p1',
      blobDigest: B,
      blobSizeBytes: 10,
      chunkTableDigest: A,
      tarSizeBytes: 2 ** 40,
    };
    await catalog.putLayer({ ...record, blobSizeBytes: 9 });
    await catalog.putLayer(record);
    expect(await catalog.layer(A, 'p1')).toEqual(record);
    expect(await catalog.layer(A, 'p2')).toBeNull();
  });

  test('a lease is renewed by its owner, and given back', async () => {
    expect(await catalog.leases.take('chain', 100, 0)).toBe(true);
    expect(await catalog.leases.take('chain', 200, 150)).toBe(true);
    await catalog.leases.release('chain');
    expect(await catalog.leases.take('chain', 300, 160)).toBe(true);
  });

  test('a conversion goes from queued over running to done', async () => {
    await table.enqueue(request(A), 1);
    expect(await table.get(A, 'p')).toMatchObject({ state: 'queued', converted: null, createdAtMs: 1 });
    expect(await table.takeNext('p', LEASE_MS + 2, 2)).toMatchObject({ digest: A, state: 'running' });
    expect(await table.takeNext('p', LEASE_MS + 2, 2)).toBeNull();
    const progress = { layersDone: 1, layersTotal: 2, bytesDone: 3, bytesTotal: 4 };
    await table.setProgress(A, 'p', progress, 3);
    await table.setDone(A, 'p', CONVERTED, 4);
    expect(await table.get(A, 'p')).toMatchObject({
      state: 'done',
      converted: CONVERTED,
      progress,
      updatedAtMs: 4,
    });
    await table.enqueue(request(A, { priority: 9 }), 5);
    expect((await table.get(A, 'p'))?.state).toBe('done');
  });

  test('profiles do not see each other', async () => {
    await table.enqueue(request(A), 1);
    expect(await table.takeNext('q', LEASE_MS, 2)).toBeNull();
    expect(await table.get(A, 'q')).toBeNull();
  });

  test('turns go by priority, then by age, and asking again can raise a priority', async () => {
    await table.enqueue(request(A), 1);
    await table.enqueue(request(B), 2);
    await table.enqueue(request(C), 3);
    await table.enqueue(request(C, { priority: 1 }), 4);
    await table.enqueue(request(C, { priority: 0 }), 5);
    expect([await take(9), await take(9), await take(9)]).toEqual([C, A, B]);
  });

  test('a conversion waits for its start, and asking for it again can bring it forward', async () => {
    await table.enqueue(request(A, { notBeforeMs: 100 }), 1);
    expect(await table.takeNext('p', LEASE_MS + 99, 99)).toBeNull();
    expect(await table.nextStartMs('p')).toBe(100);
    await table.enqueue(request(A, { notBeforeMs: 50 }), 2);
    expect(await table.nextStartMs('p')).toBe(50);
    expect(await take(50)).toBe(A);
    await table.setDone(A, 'p', CONVERTED, 51);
    expect(await table.nextStartMs('p')).toBeNull();
  });

  test('a failure that passes is tried again by itself, at its time, behind what was not tried yet', async () => {
    await table.enqueue(request(A, { priority: 1 }), 1);
    await table.takeNext('p', LEASE_MS + 1, 1);
    await table.setFailed(A, 'p', failure({ nextAttemptMs: 100 }), 2);
    await table.enqueue(request(A, { priority: 1, policy: 'v2' }), 3);
    expect(await table.get(A, 'p')).toMatchObject({
      state: 'failed',
      error: 'why',
      errorCode: 'E',
      attempts: 1,
    });
    expect(await table.nextStartMs('p')).toBe(100);
    expect(await table.takeNext('p', LEASE_MS + 99, 99)).toBeNull();
    await table.enqueue(request(B), 100);
    expect([await take(100), await take(100)]).toEqual([B, A]);
    await table.setFailed(A, 'p', failure({ nextAttemptMs: 200 }), 101);
    expect(await table.get(A, 'p')).toMatchObject({ attempts: 2, nextAttemptMs: 200 });
  });

  test('a lasting failure is tried again only under another policy', async () => {
    await table.enqueue(request(A), 1);
    await table.takeNext('p', LEASE_MS + 1, 1);
    await table.setFailed(A, 'p', failure(), 2);
    expect(await table.nextStartMs('p')).toBeNull();
    await table.enqueue(request(A, { priority: 1 }), 1e9);
    expect(await table.takeNext('p', LEASE_MS + 1e9, 1e9)).toBeNull();
    await table.enqueue(request(A, { policy: 'v2' }), 2e9);
    expect(await table.takeNext('p', LEASE_MS + 2e9, 2e9)).toMatchObject({
      digest: A,
      error: null,
      errorCode: null,
      attempts: 0,
    });
  });

  test('whoever asks for it gets a failed conversion tried again, with the failed images of an index', async () => {
    await table.enqueueIndex(request(INDEX, { kind: 'index' }), [request(A), request(B)], [], 1);
    await table.setDone(A, 'p', CONVERTED, 2);
    await table.setFailed(B, 'p', failure(), 2);
    await table.setFailed(INDEX, 'p', failure({ nextAttemptMs: 1000 }), 2);
    await table.retry(INDEX, 'p', 1, 3);
    const untried = { state: 'queued', error: null, attempts: 0, nextAttemptMs: null, priority: 1 };
    expect(await table.get(INDEX, 'p')).toMatchObject(untried);
    expect(await table.get(B, 'p')).toMatchObject(untried);
    expect(await table.get(A, 'p')).toMatchObject({ state: 'done' });
  });

  test('a conversion whose owner says nothing any more is taken up by another one, but not again and again', async () => {
    await table.enqueue(request(A), 1);
    const died = { ...failure({ code: 'DIED' }), after: 3 };
    for (let process = 0; process < 3; process++) {
      const nowMs = 1 + process * LEASE_MS;
      await table.giveUpInterrupted(died, nowMs);
      expect(await take(nowMs)).toBe(A);
      expect(await take(nowMs + LEASE_MS - 1)).toBeNull();
      expect(await table.nextStartMs('p')).toBe(nowMs + LEASE_MS);
    }
    await table.giveUpInterrupted(died, 1 + 3 * LEASE_MS);
    expect(await table.get(A, 'p')).toMatchObject({ state: 'failed', errorCode: 'DIED' });
    expect(await take(10 * LEASE_MS)).toBeNull();
  });

  test('a renewed lease keeps a conversion', async () => {
    await table.enqueue(request(A), 1);
    await take(1);
    expect(await table.renew(A, 'p', 10 * LEASE_MS)).toBe(true);
    expect(await take(9 * LEASE_MS)).toBeNull();
    await table.setDone(A, 'p', CONVERTED, 9);
    expect(await table.renew(A, 'p', 20 * LEASE_MS)).toBe(false);
  });

  test('an index waits until none of its images is queued or running', async () => {
    await table.enqueue(request(A), 1);
    await table.enqueueIndex(request(INDEX, { kind: 'index', priority: 9 }), [request(A), request(B)], [], 2);
    expect(await take(4)).toBe(A);
    expect(await take(4)).toBe(B);
    expect(await take(4)).toBeNull();
    await table.setDone(A, 'p', CONVERTED, 5);
    expect(await table.takeNext('p', LEASE_MS + 5, 5)).toBeNull();
    await table.setFailed(B, 'p', failure({ nextAttemptMs: 100 }), 5);
    expect(await take(5)).toBe(INDEX);
    expect((await table.children(INDEX, 'p')).map((child) => child.state).sort()).toEqual(['done', 'failed']);
  });

  test('an index whose images nobody has asked for waits for one of them', async () => {
    await table.enqueueIndex(request(INDEX, { kind: 'index' }), [], [A, B], 1);
    expect(await take(2)).toBeNull();
    expect(await table.nextStartMs('p')).toBeNull();
    await table.enqueue(request(B), 3);
    expect(await take(4)).toBe(B);
    expect(await take(4)).toBeNull();
    await table.setDone(B, 'p', CONVERTED, 5);
    expect(await take(6)).toBe(INDEX);
  });

  test('what is left as it is is never begun, unless somebody else wants it', async () => {
    await table.leave(request(A), 'excluded', 1);
    expect(await take(2)).toBeNull();
    expect(await table.get(A, 'p')).toMatchObject({ error: 'excluded', errorCode: LEFT_CODE });
    await table.leave(request(A, { policy: 'v2' }), 'excluded still', 3);
    expect(await table.get(A, 'p')).toMatchObject({ error: 'excluded still', policy: 'v2' });
    await table.enqueue(request(A, { policy: 'v2' }), 4);
    await table.leave(request(A, { policy: 'v3' }), 'excluded', 5);
    expect(await take(6)).toBe(A);
  });

  test('only what is urgent enough is taken, and each knows how many are before it', async () => {
    await table.enqueue(request(A, { priority: 1 }), 1);
    await table.enqueue(request(B, { priority: 2 }), 2);
    expect(await table.ahead((await table.get(A, 'p'))!)).toBe(1);
    expect(await table.ahead((await table.get(B, 'p'))!)).toBe(0);
    expect((await table.takeNext('p', LEASE_MS, 3, 2))?.digest).toBe(B);
    expect(await table.takeNext('p', LEASE_MS, 3, 2)).toBeNull();
    expect((await table.get(B, 'p'))?.startedAtMs).toBe(3);
  });

  test('what is given back is queued again', async () => {
    await table.enqueue(request(A), 1);
    await table.enqueue(request(B), 2);
    await take(3);
    await table.requeue(A, 'p', 6);
    expect((await table.get(A, 'p'))?.state).toBe('queued');
    expect((await table.list()).map((record) => record.digest)).toEqual([B, A]);
  });

  test('an index that was put together without an image is queued again when the image is done', async () => {
    await table.enqueueIndex(request(INDEX, { kind: 'index' }), [request(A), request(B)], [], 1);
    await table.setDone(A, 'p', CONVERTED, 2);
    await table.setFailed(B, 'p', failure(), 2);
    await table.setDone(INDEX, 'p', CONVERTED, 3);
    await table.retry(B, 'p', 0, 6);
    await table.setDone(B, 'p', CONVERTED, 7);
    expect(await table.get(INDEX, 'p')).toMatchObject({ state: 'queued', converted: CONVERTED });
    expect(await table.takeNext('p', LEASE_MS + 7, 7)).toMatchObject({ digest: INDEX });
  });

  test('a failed one is fetched from where it is asked for again', async () => {
    await table.enqueue(request(A), 1);
    await table.setFailed(A, 'p', failure(), 2);
    await table.enqueue(request(A, { repository: 'library/copy', policy: 'v2' }), 6);
    expect(await table.get(A, 'p')).toMatchObject({ state: 'queued', repository: 'library/copy' });
  });
}

function request(digest: Digest, more: Partial<ConversionRequest> = {}): ConversionRequest {
  return {
    digest,
    profile: 'p',
    kind: 'image',
    ...PY,
    platform: null,
    priority: 0,
    notBeforeMs: 0,
    policy: 'v1',
    ...more,
  };
}

function failure(more: Partial<ConversionFailure> = {}): ConversionFailure {
  return { code: 'E', message: 'why', nextAttemptMs: null, policy: 'v1', ...more };
}
