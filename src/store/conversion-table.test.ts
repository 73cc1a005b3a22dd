import { afterEach, beforeEach, expect, test } from 'vitest';
import { type Digest, digestOf } from '../oci/digest.ts';
import { Catalog } from './catalog.ts';
import type { ConversionRequest, ConversionTable } from './conversion-table.ts';

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
    ...more,
  };
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

test('a failure is remembered and not tried again before its time', () => {
  table.enqueue(request(A), 1);
  table.takeNext('p', 1);
  table.setFailed(A, 'p', 'the layer is broken', 100, 2);
  table.enqueue(request(A, { priority: 1, notBeforeMs: 99 }), 99);
  expect(table.get(A, 'p')).toMatchObject({ state: 'failed', error: 'the layer is broken' });
  table.enqueue(request(A, { notBeforeMs: 100 }), 100);
  expect(table.takeNext('p', 100)).toMatchObject({ digest: A, error: null });
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
  table.setFailed(B, 'p', 'no', 100, 5);
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
  table.setFailed(B, 'p', 'broken', 5, 2);
  table.setDone(INDEX, 'p', CONVERTED, 3);
  table.enqueue(request(B), 6);
  table.setDone(B, 'p', CONVERTED, 7);
  expect(table.get(INDEX, 'p')).toMatchObject({ state: 'queued', converted: CONVERTED });
  expect(table.takeNext('p', 7)).toMatchObject({ digest: INDEX });
});

test('a failed one is fetched from where it is asked for again', () => {
  table.enqueue(request(A), 1);
  table.setFailed(A, 'p', 'gone', 5, 2);
  table.enqueue(request(A, { repository: 'library/copy' }), 6);
  expect(table.get(A, 'p')).toMatchObject({ state: 'queued', repository: 'library/copy' });
});
