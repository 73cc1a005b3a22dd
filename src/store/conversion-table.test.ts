import { afterEach, beforeEach, expect, test } from 'vitest';
import { type Digest, digestOf } from '../oci/digest.ts';
import { Catalog } from './catalog.ts';
import type { ConversionFailure, ConversionRequest, ConversionTable } from './conversion-table.ts';

const A = digestOf('a');
const B = digestOf('b');
const INDEX = digestOf('index');
const CONVERTED = { digest: digestOf('converted'), mediaType: 'application/x', sizeBytes: 9 };

let catalog: Catalog;
let table: ConversionTable;

beforeEach(() => {
  catalog = Catalog.open(':memory:');
  table = catalog.conversions;
});

afterEach(() => catalog.close());

function request(digest: Digest, more: Partial<ConversionRequest> = {}): ConversionRequest {
  return {
    digest,
    profile: 'p',
    kind: 'image',
    upstream: 'docker.io',
    repository: 'library/python',
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

test('a conversion goes from queued over running to done', () => {
  table.enqueue(request(A), 1);
  expect(table.get(A, 'p')).toMatchObject({ state: 'queued', converted: null, createdAtMs: 1 });
  expect(table.takeNext('p', 2)).toMatchObject({ digest: A, state: 'running' });
  expect(table.takeNext('p', 2)).toBeNull();
  const progress = { layersDone: 1, layersTotal: 2, bytesDone: 3, bytesTotal: 4 };
  table.setProgress(A, 'p', progress, 3);
  table.setDone(A, 'p', CONVERTED, 4);
  expect(table.get(A, 'p')).toMatchObject({ state: 'done', converted: CONVERTED, progress, updatedAtMs: 4 });
  table.enqueue(request(A, { priority: 9 }), 5);
  expect(table.get(A, 'p')?.state).toBe('done');
});

test('profiles do not see each other', () => {
  table.enqueue(request(A), 1);
  expect(table.takeNext('q', 2)).toBeNull();
  expect(table.get(A, 'q')).toBeNull();
});

test('turns go by priority, then by age, and asking again can raise a priority', () => {
  const C = digestOf('c');
  table.enqueue(request(A), 1);
  table.enqueue(request(B), 2);
  table.enqueue(request(C), 3);
  table.enqueue(request(C, { priority: 1 }), 4);
  table.enqueue(request(C, { priority: 0 }), 5);
  expect([1, 2, 3].map(() => table.takeNext('p', 9)?.digest)).toEqual([C, A, B]);
});

test('a conversion waits for its start, and asking for it again can bring it forward', () => {
  table.enqueue(request(A, { notBeforeMs: 100 }), 1);
  expect(table.takeNext('p', 99)).toBeNull();
  expect(table.nextStartMs('p')).toBe(100);
  table.enqueue(request(A, { notBeforeMs: 50 }), 2);
  expect(table.nextStartMs('p')).toBe(50);
  expect(table.takeNext('p', 50)?.digest).toBe(A);
  expect(table.nextStartMs('p')).toBeNull();
});

test('a failure that passes is tried again by itself, at its time, behind what was not tried yet', () => {
  table.enqueue(request(A, { priority: 1 }), 1);
  table.takeNext('p', 1);
  table.setFailed(A, 'p', failure({ nextAttemptMs: 100 }), 2);
  table.enqueue(request(A, { priority: 1, policy: 'v2' }), 3);
  expect(table.get(A, 'p')).toMatchObject({ state: 'failed', error: 'why', errorCode: 'E', attempts: 1 });
  expect(table.nextStartMs('p')).toBe(100);
  expect(table.takeNext('p', 99)).toBeNull();
  table.enqueue(request(B), 100);
  expect([table.takeNext('p', 100)?.digest, table.takeNext('p', 100)?.digest]).toEqual([B, A]);
  table.setFailed(A, 'p', failure({ nextAttemptMs: 200 }), 101);
  expect(table.get(A, 'p')).toMatchObject({ attempts: 2, nextAttemptMs: 200 });
});

test('a lasting failure is tried again only under another policy', () => {
  table.enqueue(request(A), 1);
  table.takeNext('p', 1);
  table.setFailed(A, 'p', failure(), 2);
  expect(table.nextStartMs('p')).toBeNull();
  table.enqueue(request(A, { priority: 1 }), 1e9);
  expect(table.takeNext('p', 1e9)).toBeNull();
  table.enqueue(request(A, { policy: 'v2' }), 2e9);
  expect(table.takeNext('p', 2e9)).toMatchObject({ digest: A, error: null, errorCode: null, attempts: 0 });
});

test('whoever asks for it gets a failed conversion tried again, with the failed images of an index', () => {
  table.enqueueIndex(request(INDEX, { kind: 'index' }), [request(A), request(B)], 1);
  table.setDone(A, 'p', CONVERTED, 2);
  table.setFailed(B, 'p', failure(), 2);
  table.setFailed(INDEX, 'p', failure({ nextAttemptMs: 1000 }), 2);
  table.retry(INDEX, 'p', 1, 3);
  const untried = { state: 'queued', error: null, attempts: 0, nextAttemptMs: null, priority: 1 };
  expect(table.get(INDEX, 'p')).toMatchObject(untried);
  expect(table.get(B, 'p')).toMatchObject(untried);
  expect(table.get(A, 'p')).toMatchObject({ state: 'done' });
});

test('what several processes died of is not begun by another one', () => {
  table.enqueue(request(A), 1);
  const died = { ...failure({ code: 'DIED' }), after: 3 };
  for (let process = 1; process <= 3; process++) {
    expect(table.takeNext('p', process)?.digest).toBe(A);
    table.requeueRunning(process);
    table.takeNext('p', process);
    table.requeueInterrupted(died, process);
  }
  expect(table.get(A, 'p')).toMatchObject({ state: 'failed', errorCode: 'DIED' });
  expect(table.takeNext('p', 9)).toBeNull();
});

test('an index waits until none of its images is queued or running', () => {
  table.enqueue(request(A), 1);
  table.enqueueIndex(request(INDEX, { kind: 'index', priority: 9 }), [request(A), request(B)], 2);
  expect(table.takeNext('p', 4)?.digest).toBe(A);
  expect(table.takeNext('p', 4)?.digest).toBe(B);
  expect(table.takeNext('p', 4)).toBeNull();
  expect(table.nextStartMs('p')).toBeNull();
  table.setDone(A, 'p', CONVERTED, 5);
  expect(table.takeNext('p', 5)).toBeNull();
  table.setFailed(B, 'p', failure({ nextAttemptMs: 100 }), 5);
  expect(table.takeNext('p', 5)?.digest).toBe(INDEX);
  expect(
    table
      .children(INDEX, 'p')
      .map((child) => child.state)
      .sort(),
  ).toEqual(['done', 'failed']);
});

test('what was running when the process ended is queued again', () => {
  table.enqueue(request(A), 1);
  table.enqueue(request(B), 2);
  table.takeNext('p', 3);
  table.requeueRunning(4);
  expect(table.takeNext('p', 5)?.digest).toBe(A);
  table.requeue(A, 'p', 6);
  expect(table.get(A, 'p')?.state).toBe('queued');
  expect(table.list().map((record) => record.digest)).toEqual([B, A]);
});

test('an index that was put together without an image is queued again when the image is done', () => {
  table.enqueueIndex(request(INDEX, { kind: 'index' }), [request(A), request(B)], 1);
  table.setDone(A, 'p', CONVERTED, 2);
  table.setFailed(B, 'p', failure(), 2);
  table.setDone(INDEX, 'p', CONVERTED, 3);
  table.retry(B, 'p', 0, 6);
  table.setDone(B, 'p', CONVERTED, 7);
  expect(table.get(INDEX, 'p')).toMatchObject({ state: 'queued', converted: CONVERTED });
  expect(table.takeNext('p', 7)).toMatchObject({ digest: INDEX });
});

test('a failed one is fetched from where it is asked for again', () => {
  table.enqueue(request(A), 1);
  table.setFailed(A, 'p', failure(), 2);
  table.enqueue(request(A, { repository: 'library/copy', policy: 'v2' }), 6);
  expect(table.get(A, 'p')).toMatchObject({ state: 'queued', repository: 'library/copy' });
});
