import { closeSync, mkdtempSync, openSync, rmSync, statSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import Database from 'better-sqlite3';
import { afterEach, beforeEach, expect, test } from 'vitest';
import type { ChunkTable } from '../../format/chunk-table.ts';
import { digestOf } from '../../oci/digest.ts';
import { KnownContent } from './known-content.ts';

const TABLE: ChunkTable = { chunkSize: 262_144, blobSize: 5, digests: Buffer.alloc(32, 1) };
const TARGET = { registry: 'reg.example', repository: 'lib/a' };
const BYTES = Buffer.from('{}');
const MANIFEST = { mediaType: 'application/json', bytes: BYTES };
const BLOB = digestOf('a blob');

let directory: string;
let problems: unknown[];
let known: KnownContent;

const open = () => KnownContent.open(directory, (error) => problems.push(error));
const path = () => join(directory, 'known-content.db');

/** As another program would. */
function change(sql: string): void {
  const database = new Database(path());
  database.exec(sql);
  database.close();
}

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'dadi-kc-'));
  problems = [];
  known = open();
});

afterEach(() => {
  known.close();
  rmSync(directory, { recursive: true });
});

test('when nothing can be written it goes on with what it has, and says so once', () => {
  known.putTable(BLOB, { table: TABLE, isProven: true });
  for (const table of ['manifests', 'tables', 'public']) {
    for (const write of ['INSERT', 'UPDATE']) {
      change(
        `CREATE TRIGGER ${table}_${write} BEFORE ${write} ON ${table} BEGIN SELECT raise(FAIL, 'disk full'); END`,
      );
    }
  }
  known.putManifest(digestOf(BYTES), MANIFEST);
  known.putPublic(TARGET, BLOB);
  expect(known.table(BLOB)).toEqual({ table: TABLE, isProven: true });
  expect(known.manifest(digestOf(BYTES))).toBeNull();
  expect(known.isPublic(TARGET, BLOB)).toBe(false);
  expect(problems).toHaveLength(1);
});

test('a row that was damaged is no row', () => {
  known.putTable(BLOB, { table: TABLE, isProven: true });
  known.putManifest(digestOf(BYTES), MANIFEST);
  change(`UPDATE tables SET bytes = x'00'; UPDATE manifests SET bytes = x'00'`);
  expect(known.table(BLOB)).toBeNull();
  expect(known.manifest(digestOf(BYTES))).toBeNull();
  known.putTable(BLOB, { table: TABLE, isProven: false });
  expect(known.table(BLOB)).toEqual({ table: TABLE, isProven: false });
});

test('a file that is damaged while it runs is begun anew', () => {
  for (let index = 0; index < 300; index++) known.putPublic(TARGET, digestOf(String(index)));
  known.close();
  const sizeBytes = statSync(path()).size;
  const file = openSync(path(), 'r+');
  writeSync(file, Buffer.alloc(sizeBytes - 4096, 0xff), 0, sizeBytes - 4096, 4096);
  closeSync(file);
  known = open();
  expect(known.table(BLOB)).toBeNull();
  known.putTable(BLOB, { table: TABLE, isProven: true });
  known.putTable(BLOB, { table: TABLE, isProven: true });
  expect(known.table(BLOB)).toEqual({ table: TABLE, isProven: true });
  expect(problems).not.toEqual([]);
});
