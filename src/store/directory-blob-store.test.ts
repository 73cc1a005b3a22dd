import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import {
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statfsSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { testBlobStore } from '../../test/support/blob-store-suite.ts';
import { requireCapability } from '../../test/support/capabilities.ts';
import { run } from '../../test/support/processes.ts';
import { digestHex, digestOf, parseDigest } from '../oci/digest.ts';
import { DirectoryBlobStore } from './directory-blob-store.ts';

const HELLO = Buffer.from('hello, blobs');
const DIGEST = digestOf(HELLO);
const MIB = 1024 * 1024;

testBlobStore('a directory', async () => {
  const root = mkdtempSync(join(tmpdir(), 'dadi-store-'));
  let opened = await DirectoryBlobStore.open(root);
  return {
    store: opened,
    damage: async (digest) => {
      const hex = digestHex(parseDigest(digest));
      const path = join(root, 'blobs', 'sha256', hex.slice(0, 2), hex);
      const bytes = readFileSync(path);
      bytes[bytes.length >> 1]! ^= 1;
      writeFileSync(path, bytes);
    },
    reopen: async () => {
      await opened.close();
      opened = await DirectoryBlobStore.open(root);
      return opened;
    },
    remove: async () => {
      await opened.close();
      rmSync(root, { recursive: true });
    },
  };
});

let directory: string;

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'dadi-store-'));
});
afterEach(() => {
  rmSync(directory, { recursive: true });
});

test('a second store on the same directory is refused and destroys nothing', async () => {
  const store = await DirectoryBlobStore.open(directory);
  const writer = await store.writer({ digest: DIGEST });
  await writer.write(HELLO);
  await expect(DirectoryBlobStore.open(directory)).rejects.toMatchObject({
    code: 'ERR_STORE_LOCKED',
    message: expect.stringContaining(`process ${process.pid}`),
  });
  await writer.commit();
  await store.close();
});

test('an open blob stays readable when a check removes it', async () => {
  const store = await DirectoryBlobStore.open(directory);
  const bytes = randomBytes(1000);
  const digest = await store.put(bytes);
  const source = (await store.open(digest))!;
  const path = (await store.localFile(digest))!.path;
  rmSync(path);
  writeFileSync(path, 'other bytes');
  expect(await store.verify(digest)).toBe('damaged');
  const read = Buffer.alloc(source.size);
  await source.read(0, read);
  expect(read.equals(bytes)).toBe(true);
  await source.close();
  await store.close();
});

test('files that are not blobs are not listed', async () => {
  const store = await DirectoryBlobStore.open(directory);
  await store.put(HELLO);
  const blobs = join(directory, 'blobs');
  mkdirSync(join(blobs, 'sha256', 'zz'));
  writeFileSync(join(blobs, 'sha256', 'zz', digestHex(DIGEST)), 'x');
  writeFileSync(join(blobs, 'sha256', digestHex(DIGEST).slice(0, 2), 'notes.txt'), 'x');
  writeFileSync(join(blobs, 'README'), 'x');
  const found: string[] = [];
  for await (const { digest } of store.list()) found.push(digest);
  expect(found).toEqual([DIGEST]);
  await store.close();
});

describe.skipIf(!requireCapability('root', 'loop'))('on a small disk', () => {
  async function onDisk(
    kind: 'tmpfs' | 'ext4',
    sizeMib: number,
    work: (small: string) => Promise<void>,
  ): Promise<void> {
    const small = join(directory, kind);
    mkdirSync(small);
    if (kind === 'tmpfs') {
      await run('mount', ['-t', 'tmpfs', '-o', `size=${sizeMib}m`, 'tmpfs', small]);
    } else {
      const image = join(directory, 'disk.img');
      await run('truncate', ['-s', `${sizeMib}M`, image]);
      await run('mkfs.ext4', ['-q', '-m', '0', image]);
      await run('mount', ['-o', 'loop', image, small]);
    }
    try {
      await work(small);
    } finally {
      await run('umount', [small]);
    }
  }

  const free = (path: string) => {
    const { bavail, bsize } = statfsSync(path);
    return bavail * bsize;
  };

  test.each(['tmpfs', 'ext4'] as const)(
    'a blob of known size that does not fit is refused before its first byte, and leaves nothing (%s)',
    async (kind) => {
      await onDisk(kind, 32, async (small) => {
        const store = await DirectoryBlobStore.open(small);
        const before = free(small);
        const tooBig = store.writer({ digest: DIGEST, sizeBytes: 64 * MIB });
        await expect(tooBig).rejects.toMatchObject({ code: 'ERR_STORE_FULL' });
        expect(readdirSync(store.scratch())).toEqual([]);
        expect(free(small)).toBe(before);

        // Reserved space is nobody else's, and given back when it is not needed any more.
        const first = await store.writer({ digest: DIGEST, sizeBytes: 20 * MIB });
        const second = store.writer({ digest: DIGEST, sizeBytes: 20 * MIB });
        await expect(second).rejects.toMatchObject({ code: 'ERR_STORE_FULL' });
        await first.abort();
        const third = await store.writer({ digest: DIGEST, sizeBytes: 20 * MIB });
        await third.abort();
        expect(free(small)).toBeGreaterThanOrEqual(before - 64 * 1024);
        await store.put(HELLO);
        expect(await store.verify(DIGEST)).toBe('intact');
        await store.close();
      });
    },
  );

  test('what was reserved can be written to the last byte, although others fill the disk meanwhile', async () => {
    await onDisk('ext4', 32, async (small) => {
      const store = await DirectoryBlobStore.open(small);
      const bytes = randomBytes(8 * MIB);
      const digest = digestOf(bytes);
      const writer = await store.writer({ digest, sizeBytes: bytes.length });
      const greedy = run('dd', ['if=/dev/zero', `of=${join(small, 'filler')}`, 'bs=64k']);
      await expect(greedy).rejects.toThrow(/No space left/);
      for (let at = 0; at < bytes.length; at += MIB) await writer.write(bytes.subarray(at, at + MIB));
      rmSync(join(small, 'filler'));
      await writer.commit();
      expect(await store.verify(digest)).toBe('intact');
      await store.close();
    });
  });

  test('a blob of unknown size that fills the disk is reported as such, leaves nothing and can be tried again', async () => {
    await onDisk('tmpfs', 1, async (small) => {
      const store = await DirectoryBlobStore.open(small);
      const writer = await store.writer(null);
      await expect(writer.write(Buffer.alloc(2 * MIB, 7))).rejects.toMatchObject({ code: 'ERR_STORE_FULL' });
      expect(readdirSync(store.scratch())).toEqual([]);
      await store.put(HELLO);
      expect(await store.stat(DIGEST)).not.toBeNull();
      await store.close();
    });
  });

  test('the reserve is never used, by blobs of known size or of unknown', async () => {
    await onDisk('tmpfs', 64, async (small) => {
      const minFreeBytes = 40 * MIB;
      const store = await DirectoryBlobStore.open(small, { minFreeBytes });
      const refusal = { code: 'ERR_STORE_FULL', message: expect.stringContaining('storage.minFreeBytes') };
      await expect(store.writer({ digest: DIGEST, sizeBytes: 30 * MIB })).rejects.toMatchObject(refusal);
      const all = await Promise.allSettled(
        Array.from({ length: 8 }, () => store.writer({ digest: DIGEST, sizeBytes: 6 * MIB })),
      );
      expect(all.map(({ status }) => status).filter((status) => status === 'fulfilled')).toHaveLength(3);
      expect(free(small)).toBeGreaterThanOrEqual(minFreeBytes);
      for (const each of all) if (each.status === 'fulfilled') await each.value.abort();

      const unknown = await store.writer(null);
      const endless = async () => {
        while (true) await unknown.write(Buffer.alloc(MIB, 7));
      };
      await expect(endless()).rejects.toMatchObject(refusal);
      expect(free(small)).toBeGreaterThanOrEqual(minFreeBytes);
      expect(readdirSync(store.scratch())).toEqual([]);
      await store.close();
    });
  });
});

describe('kill -9', () => {
  const module = JSON.stringify(new URL('directory-blob-store.ts', import.meta.url).href);

  async function started(program: string) {
    const source = `const { DirectoryBlobStore } = await import(${module});
      const store = await DirectoryBlobStore.open(${JSON.stringify(directory)});
      ${program}`;
    const stdio: ['ignore', 'pipe', 'inherit'] = ['ignore', 'pipe', 'inherit'];
    const child = spawn(process.execPath, ['--input-type=module', '-e', source], { stdio });
    await once(child.stdout, 'data');
    child.stdout.resume();
    return child;
  }

  test('the directory of a killed process can be opened, and what it left unfinished is gone', async () => {
    const child = await started(`
      await (await store.writer(null)).write(Buffer.from('half'));
      process.stdout.write('ready');
      setInterval(() => {}, 1000);`);
    await expect(DirectoryBlobStore.open(directory)).rejects.toMatchObject({
      code: 'ERR_STORE_LOCKED',
      message: expect.stringContaining(`process ${child.pid}`),
    });
    expect(readdirSync(join(directory, 'ingest'))).toHaveLength(1);
    child.kill('SIGKILL');
    await once(child, 'exit');
    const store = await DirectoryBlobStore.open(directory);
    expect(readdirSync(store.scratch())).toEqual([]);
    await store.close();
  });

  test('in the middle of many writes and removals leaves whole blobs only, and no litter', async () => {
    let blobs = 0;
    for (let round = 0; round < 8; round++) {
      const child = await started(`
        const { randomBytes, createHash } = await import('node:crypto');
        const { writeFileSync } = await import('node:fs');
        let count = 0;
        async function write(lane) {
          for (let turn = 0; ; turn++) {
            const bytes = randomBytes(1 + Math.floor(Math.random() * 500_000));
            const digest = 'sha256:' + createHash('sha256').update(bytes).digest('hex');
            if (lane % 2 === 0) {
              const writer = await store.writer({ digest, sizeBytes: bytes.length });
              for (let at = 0; at < bytes.length; at += 50_000) await writer.write(bytes.subarray(at, at + 50_000));
              await writer.commit();
            } else {
              const path = store.scratch() + '/made-' + lane + '-' + turn;
              writeFileSync(path, bytes);
              await store.adopt(path, digest);
            }
            if (turn % 5 === 4) await store.remove(digest);
            if (++count === ${5 + round * 3}) process.stdout.write('enough');
          }
        }
        for (let lane = 0; lane < 6; lane++) void write(lane);`);
      child.kill('SIGKILL');
      await once(child, 'exit');
      const store = await DirectoryBlobStore.open(directory);
      expect(readdirSync(store.scratch())).toEqual([]);
      blobs = 0;
      for await (const { digest } of store.list()) {
        expect(await store.verify(digest)).toBe('intact');
        blobs++;
      }
      await store.close();
      expect(readdirSync(directory).sort()).toEqual(['blobs', 'ingest', 'lock', 'lock.pid']);
    }
    expect(blobs).toBeGreaterThan(8);
  });
});
