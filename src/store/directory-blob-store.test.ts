import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { getuid } from 'node:process';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { run } from '../../test/support/processes.ts';
import { digestOf } from '../oci/digest.ts';
import { DirectoryBlobStore } from './directory-blob-store.ts';

const HELLO = Buffer.from('hello, blobs');
const DIGEST = digestOf(HELLO);
const OTHER = digestOf('something else');

let directory: string;
let store: DirectoryBlobStore;

beforeEach(async () => {
  directory = mkdtempSync(join(tmpdir(), 'dadi-store-'));
  store = await DirectoryBlobStore.open(directory);
});

afterEach(async () => {
  await store.close();
  rmSync(directory, { recursive: true });
});

function unfinished(): string[] {
  return readdirSync(join(directory, 'ingest'));
}

async function written(digest = DIGEST) {
  const writer = await store.writer({ digest, sizeBytes: HELLO.length });
  await writer.write(HELLO.subarray(0, 5));
  await writer.write(HELLO.subarray(5));
  return writer;
}

test('a blob can be seen only after commit, then with all its bytes', async () => {
  const writer = await written();
  expect(await store.stat(DIGEST)).toBeNull();
  expect(await store.open(DIGEST)).toBeNull();
  expect(await store.localPath(DIGEST)).toBeNull();
  expect(readFileSync(writer.path)).toEqual(HELLO);

  expect(await writer.commit()).toEqual({ digest: DIGEST, sizeBytes: HELLO.length });
  expect(await store.stat(DIGEST)).toEqual({ sizeBytes: HELLO.length });
  expect(readFileSync((await store.localPath(DIGEST))!)).toEqual(HELLO);
  const source = (await store.open(DIGEST))!;
  const bytes = Buffer.alloc(source.size);
  await source.read(0, bytes);
  await source.close();
  expect(bytes).toEqual(HELLO);
  expect(unfinished()).toEqual([]);
});

test('bytes of another digest are refused and leave nothing', async () => {
  const writer = await written(OTHER);
  await expect(writer.commit()).rejects.toMatchObject({ code: 'ERR_STORE_DIGEST' });
  expect(await store.stat(OTHER)).toBeNull();
  expect(await store.stat(DIGEST)).toBeNull();
  expect(unfinished()).toEqual([]);
});

test('a blob that is too short or too long is refused and leaves nothing', async () => {
  const short = await store.writer({ digest: DIGEST, sizeBytes: HELLO.length + 1 });
  await short.write(HELLO);
  await expect(short.commit()).rejects.toMatchObject({ code: 'ERR_STORE_SIZE' });
  const long = await store.writer({ digest: DIGEST, sizeBytes: HELLO.length - 1 });
  await expect(long.write(HELLO)).rejects.toMatchObject({ code: 'ERR_STORE_SIZE' });
  await expect(long.write(HELLO)).rejects.toMatchObject({ code: 'ERR_STORE_CLOSED' });
  expect(unfinished()).toEqual([]);
});

test('an aborted blob leaves nothing, and abort after commit does no harm', async () => {
  await (await written()).abort();
  expect(unfinished()).toEqual([]);
  const writer = await written();
  await writer.commit();
  await writer.abort();
  expect(await store.stat(DIGEST)).not.toBeNull();
});

test('a digest of the other registered algorithm is verified with it', async () => {
  const sha512 = digestOf(HELLO, 'sha512');
  await (await written(sha512)).commit();
  expect(await store.stat(sha512)).toEqual({ sizeBytes: HELLO.length });
});

test('put, writer without expectation and adopt all end in the same blob', async () => {
  expect(await store.put(HELLO)).toBe(DIGEST);
  expect(await store.put(HELLO)).toBe(DIGEST);
  await store.remove(DIGEST);
  expect(await store.stat(DIGEST)).toBeNull();
  const writer = await store.writer(null);
  await writer.write(HELLO);
  expect((await writer.commit()).digest).toBe(DIGEST);
  await store.remove(DIGEST);
  const path = join(store.scratch(), 'made-elsewhere');
  writeFileSync(path, HELLO);
  await store.adopt(path, DIGEST);
  expect(readFileSync((await store.localPath(DIGEST))!)).toEqual(HELLO);
  expect(unfinished()).toEqual([]);
});

test('an open blob stays readable after it is removed', async () => {
  await store.put(HELLO);
  const source = (await store.open(DIGEST))!;
  await store.remove(DIGEST);
  const bytes = Buffer.alloc(source.size);
  await source.read(0, bytes);
  await source.close();
  expect(bytes).toEqual(HELLO);
});

test.skipIf(getuid?.() !== 0)(
  'a full disk is reported as such, leaves nothing and can be tried again',
  async () => {
    const small = mkdtempSync(join(tmpdir(), 'dadi-store-full-'));
    await run('mount', ['-t', 'tmpfs', '-o', 'size=128k', 'tmpfs', small]);
    try {
      const full = await DirectoryBlobStore.open(small);
      const big = Buffer.alloc(256 * 1024, 7);
      await expect(full.put(big)).rejects.toMatchObject({ code: 'ERR_STORE_FULL' });
      expect(readdirSync(full.scratch())).toEqual([]);
      expect(await full.stat(digestOf(big))).toBeNull();
      await full.put(HELLO);
      expect(await full.stat(DIGEST)).not.toBeNull();
      await full.close();
    } finally {
      await run('umount', [small]);
      rmSync(small, { recursive: true });
    }
  },
);

test('a second store on the same directory is refused and destroys nothing', async () => {
  const writer = await written();
  await expect(DirectoryBlobStore.open(directory)).rejects.toMatchObject({
    code: 'ERR_STORE_LOCKED',
    message: expect.stringContaining(`process ${process.pid}`),
  });
  await writer.commit();
});

test('a store whose process was killed can be opened, and what it left unfinished is gone', async () => {
  await store.close();
  const program = `
    const { DirectoryBlobStore } = await import(${JSON.stringify(new URL('directory-blob-store.ts', import.meta.url).href)});
    const store = await DirectoryBlobStore.open(${JSON.stringify(directory)});
    await (await store.writer(null)).write(Buffer.from('half'));
    process.stdout.write('ready');
    setInterval(() => {}, 1000);`;
  const child = spawn(process.execPath, ['--input-type=module', '-e', program], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  await once(child.stdout, 'data');
  await expect(DirectoryBlobStore.open(directory)).rejects.toMatchObject({
    code: 'ERR_STORE_LOCKED',
    message: expect.stringContaining(`process ${child.pid}`),
  });
  expect(unfinished()).toHaveLength(1);
  child.kill('SIGKILL');
  await once(child, 'exit');
  store = await DirectoryBlobStore.open(directory);
  expect(unfinished()).toEqual([]);
});
