import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import Database from 'better-sqlite3';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { digestOf } from '../oci/digest.ts';
import { Catalog } from './catalog.ts';

const PY = { upstream: 'docker.io', repository: 'library/python' };
const WEB = { upstream: 'docker.io', repository: 'library/web' };
const A = digestOf('a');
const B = digestOf('b');

let directory: string;
let path: string;
let catalog: Catalog;

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'dadi-catalog-'));
  path = join(directory, 'catalog.db');
  catalog = Catalog.open(path);
});

afterEach(() => {
  catalog.close();
  rmSync(directory, { recursive: true });
});

test('what was written is there after a restart', () => {
  catalog.putManifest(A, 'application/x', 12);
  catalog.link(PY, A, B);
  catalog.putTag(PY, '3', { digest: A, checkedAtMs: 5 });
  catalog.close();
  catalog = Catalog.open(path);
  expect(catalog.manifestMediaType(A)).toBe('application/x');
  expect(catalog.isLinked(PY, B)).toBe(true);
  expect(catalog.tag(PY, '3')).toEqual({ digest: A, checkedAtMs: 5 });
});

test('a digest linked to one repository is not linked to another', () => {
  catalog.link(PY, A);
  catalog.link(PY, A);
  expect(catalog.isLinked(PY, A)).toBe(true);
  expect(catalog.isLinked(WEB, A)).toBe(false);
  expect(catalog.isLinked({ ...PY, upstream: 'quay.io' }, A)).toBe(false);
});

test('a tag moves, is listed in order and can be forgotten', () => {
  catalog.putTag(PY, 'b', { digest: A, checkedAtMs: 1 });
  catalog.putTag(PY, 'a', { digest: A, checkedAtMs: 1 });
  catalog.putTag(PY, 'b', { digest: B, checkedAtMs: 2 });
  expect(catalog.tag(PY, 'b')).toEqual({ digest: B, checkedAtMs: 2 });
  expect(catalog.tags(PY)).toEqual(['a', 'b']);
  expect(catalog.tags(WEB)).toEqual([]);
  catalog.removeTag(PY, 'a');
  expect(catalog.tag(PY, 'a')).toBeNull();
  expect(catalog.repositories()).toEqual([PY]);
});

test('a converted layer is found by chain and profile', () => {
  const record = {
    chainId: A,
    profile: 'p1',
    blobDigest: B,
    blobSizeBytes: 10,
    chunkTableDigest: A,
    tarSizeBytes: 2 ** 40,
  };
  catalog.putLayer(record);
  expect(catalog.layer(A, 'p1')).toEqual(record);
  expect(catalog.layer(A, 'p2')).toBeNull();
});

test('a catalog of an earlier version keeps its conversions, and a failed one is tried again when it is pulled', () => {
  const request = { ...PY, digest: A, profile: 'p', kind: 'image', platform: null } as const;
  catalog.conversions.enqueue({ ...request, priority: 1, notBeforeMs: 0, policy: 'now' }, 1);
  catalog.close();
  const raw = new Database(path);
  for (const column of ['error_code', 'policy', 'attempts', 'interruptions', 'next_attempt_ms']) {
    raw.exec(`ALTER TABLE conversions DROP COLUMN ${column}`);
  }
  raw.exec(`UPDATE conversions SET state = 'failed', error = 'broken', not_before_ms = 600000`);
  raw.pragma('user_version = 2');
  raw.close();
  catalog = Catalog.open(path);
  const { conversions } = catalog;
  expect(conversions.get(A, 'p')).toMatchObject({ state: 'failed', error: 'broken', nextAttemptMs: null });
  expect(conversions.takeNext('p', 700_000)).toBeNull();
  conversions.enqueue({ ...request, priority: 1, notBeforeMs: 5, policy: 'now' }, 5);
  expect(conversions.takeNext('p', 5)).toMatchObject({ digest: A, attempts: 0 });
});

test('a catalog of a later version is refused', () => {
  const raw = new Database(path);
  raw.pragma('user_version = 999');
  raw.close();
  expect(() => Catalog.open(path)).toThrow(expect.objectContaining({ code: 'ERR_STORE_VERSION' }));
});

test('a file that is no catalog is refused', () => {
  expect(() => Catalog.open(directory)).toThrow(expect.objectContaining({ code: 'ERR_STORE_IO' }));
});
