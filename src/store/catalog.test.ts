import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import Database from 'better-sqlite3';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { catalogSuite } from '../../test/support/catalog-suite.ts';
import { contentSuite } from '../../test/support/content-suite.ts';
import { digestOf } from '../oci/digest.ts';
import { Catalog } from './catalog.ts';
import type { ConversionRequest } from './conversion-table.ts';

const A = digestOf('a');

let directory: string;
let path: string;

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'dadi-catalog-'));
  path = join(directory, 'catalog.db');
});

afterEach(() => rmSync(directory, { recursive: true }));

describe('in SQLite', () => {
  catalogSuite(async () => ({ open: () => Catalog.openSqlite(path) }));
  contentSuite(async () => ({ open: () => Catalog.openSqlite(path) }));
});

test('a catalog of an earlier version keeps its conversions, and a failed one is tried again when it is pulled', async () => {
  const before = await Catalog.openSqlite(path);
  const request: Omit<ConversionRequest, 'notBeforeMs'> = {
    ...{ digest: A, profile: 'p', kind: 'image', platform: null, priority: 1 },
    ...{ upstream: 'docker.io', repository: 'library/python', policy: 'now' },
  };
  await before.conversions.enqueue({ ...request, notBeforeMs: 0 }, 1);
  await before.close();
  const raw = new Database(path);
  const later = ['error_code', 'policy', 'attempts', 'interruptions', 'next_attempt_ms'];
  for (const column of [...later, 'owner', 'lease_until_ms', 'started_at_ms', 'converted_layer_bytes']) {
    raw.exec(`ALTER TABLE conversions DROP COLUMN ${column}`);
  }
  for (const table of ['leases', 'blobs', 'manifest_parts']) raw.exec(`DROP TABLE ${table}`);
  const indexes = ['links_by_digest', 'tags_by_digest', 'layers_by_blob', 'layers_by_chunk_table'];
  for (const index of [...indexes, 'conversions_by_result']) raw.exec(`DROP INDEX ${index}`);
  raw.exec(`UPDATE conversions SET state = 'failed', error = 'broken', not_before_ms = 600000`);
  raw.pragma('user_version = 2');
  raw.close();
  const catalog = await Catalog.openSqlite(path);
  const { conversions } = catalog;
  expect(await conversions.get(A, 'p')).toMatchObject({
    state: 'failed',
    error: 'broken',
    nextAttemptMs: null,
  });
  expect(await conversions.takeNext('p', 800_000, 700_000)).toBeNull();
  await conversions.enqueue({ ...request, notBeforeMs: 5 }, 5);
  expect(await conversions.takeNext('p', 100, 5)).toMatchObject({ digest: A, attempts: 0 });
  await catalog.close();
});

test('what an earlier process was at when it ended is free at once', async () => {
  const before = await Catalog.openSqlite(path);
  await before.leases.take('chain', 1e12, 1);
  await before.close();
  const after = await Catalog.openSqlite(path);
  expect(await after.leases.take('chain', 1e12, 2)).toBe(true);
  await after.close();
});

test('a catalog of a later version is refused', async () => {
  await (await Catalog.openSqlite(path)).close();
  const raw = new Database(path);
  raw.pragma('user_version = 999');
  raw.close();
  await expect(Catalog.openSqlite(path)).rejects.toMatchObject({ code: 'ERR_STORE_VERSION' });
});

test('a file that is no catalog is refused', async () => {
  await expect(Catalog.openSqlite(directory)).rejects.toMatchObject({ code: 'ERR_STORE_IO' });
});
