import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { mkdtempSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test, vi } from 'vitest';
import { testBlobStore } from '../../test/support/blob-store-suite.ts';
import { readAll } from '../../test/support/byte-sources.ts';
import { requireCapability } from '../../test/support/capabilities.ts';
import { freePort, run } from '../../test/support/processes.ts';
import {
  another,
  asked,
  CACHE,
  directory,
  flip,
  keyOf,
  MIB,
  prefix,
  server,
  useS3Stores,
} from '../../test/support/s3-stores.ts';
import { digestHex, digestOf } from '../oci/digest.ts';
import { S3BlobStore } from './s3-blob-store.ts';

useS3Stores();

testBlobStore('an S3 bucket', async () => {
  const location = { ...server.location, prefix };
  const root = mkdtempSync(join(directory, 'local-'));
  let opened = await S3BlobStore.open(root, location, CACHE);
  return {
    store: opened,
    // Here and there: what is intact here mends what is there.
    damage: async (digest) => {
      flip(server.fileOf(`${location.prefix}${keyOf(digest)}`));
      flip(join(root, keyOf(digest)));
    },
    reopen: async () => {
      await opened.close();
      opened = await S3BlobStore.open(root, location, CACHE);
      return opened;
    },
    remove: () => opened.close(),
  };
});

describe('stores that share a bucket', () => {
  test('what one stores the other reads, whole, in parts and as a file', async () => {
    const bytes = randomBytes(3 * MIB + 12_345);
    const digest = await (await another()).put(bytes);
    const source = (await (await another()).open(digest))!;
    const part = Buffer.alloc(100_000);
    await source.read(2 * MIB + 7, part);
    expect(part.equals(bytes.subarray(2 * MIB + 7, 2 * MIB + 100_007))).toBe(true);
    expect((await readAll(source)).equals(bytes)).toBe(true);
    await source.close();
    const file = (await (await another()).localFile(digest))!;
    expect(readFileSync(file.path).equals(bytes)).toBe(true);
    await file.close();
  });

  test('a blob that many want at once is fetched once, and after that not at all', async () => {
    const bytes = randomBytes(2 * MIB);
    const digest = await (await another()).put(bytes);
    const store = await another();
    server.requests.length = 0;
    await Promise.all(
      Array.from({ length: 20 }, async (_, index) => {
        const source = index % 2 === 0 ? (await store.open(digest))! : null;
        if (source !== null) expect((await readAll(source)).equals(bytes)).toBe(true);
        else await (await store.localFile(digest))!.close();
        await source?.close();
      }),
    );
    expect(asked(/^GET .*blobs\/sha256/)).toHaveLength(1);
    server.requests.length = 0;
    for (let round = 0; round < 3; round++) {
      const source = (await store.open(digest))!;
      expect((await readAll(source)).equals(bytes)).toBe(true);
      await source.close();
    }
    expect(server.requests).toEqual([]);
  });

  test('the first bytes of a blob are served while the rest is on its way', async () => {
    const bytes = randomBytes(4 * MIB);
    const digest = await (await another()).put(bytes);
    const store = await another();
    const go = Promise.withResolvers<void>();
    server.intercept = (what, request, response) => {
      if (!/^GET .*blobs\/sha256/.test(what)) return false;
      const [, from = ''] = /bytes=(\d+)-/.exec(request.headers.range ?? '') ?? [];
      const rest = bytes.subarray(Number(from));
      response.writeHead(206, {
        'content-length': rest.length,
        'content-range': `bytes ${from}-${bytes.length - 1}/${bytes.length}`,
      });
      response.write(rest.subarray(0, MIB));
      void go.promise.then(() => response.end(rest.subarray(MIB)));
      return true;
    };
    const source = (await store.open(digest))!;
    const first = Buffer.alloc(256 * 1024);
    await source.read(0, first);
    expect(first.equals(bytes.subarray(0, first.length))).toBe(true);
    go.resolve();
    expect((await readAll(source)).equals(bytes)).toBe(true);
    await source.close();
  });

  test('local copies stay within their bound, least recently used first, but for those in use', async () => {
    const store = await another(3 * MIB);
    const blobs = Array.from({ length: 6 }, () => randomBytes(MIB));
    const digests = [];
    for (const bytes of blobs.slice(0, 3)) digests.push(await store.put(bytes));
    const held = (await store.localFile(digests[0]!))!;
    await (await store.open(digests[1]!))!.close();
    for (const bytes of blobs.slice(3)) digests.push(await store.put(bytes));
    const copies = () =>
      readdirSync(join(store.scratch(), '..', 'blobs', 'sha256')).flatMap((prefix) =>
        readdirSync(join(store.scratch(), '..', 'blobs', 'sha256', prefix)),
      );
    await vi.waitFor(() => expect(copies()).toHaveLength(3), { timeout: 30_000 });
    expect(copies()).toContain(digestHex(digests[0]!));
    expect(readFileSync(held.path).equals(blobs[0]!)).toBe(true);
    await held.close();
    // Larger than all room there is: given out all the same, and not kept.
    const large = randomBytes(5 * MIB);
    const digest = await (await another()).put(large);
    const file = (await store.localFile(digest))!;
    expect(readFileSync(file.path).equals(large)).toBe(true);
    await file.close();
    await vi.waitFor(() => expect(copies()).not.toContain(digestHex(digest)), { timeout: 30_000 });
    for (const [index, bytes] of blobs.entries()) {
      const source = (await store.open(digests[index]!))!;
      expect((await readAll(source)).equals(bytes)).toBe(true);
      await source.close();
    }
  });

  test.skipIf(!requireCapability('root'))(
    'on a small disk local copies make room for what comes, and not for what never fits',
    async () => {
      const small = mkdtempSync(join(directory, 'small-'));
      await run('mount', ['-t', 'tmpfs', '-o', 'size=32m', 'tmpfs', small]);
      const location = { ...server.location, prefix };
      const store = await S3BlobStore.open(small, location, { cacheBytes: 64 * MIB });
      try {
        const digests = [];
        for (let at = 0; at < 5; at++) digests.push(await store.put(randomBytes(10 * MIB)));
        const file = (await store.localFile(digests[0]!))!;
        expect(digestOf(readFileSync(file.path))).toBe(digests[0]);
        await file.close();
        const copies = () => readdirSync(join(small, 'blobs', 'sha256'), { recursive: true }).length;
        const before = copies();
        const tooLarge = store.writer({ digest: digests[1]!, sizeBytes: 100 * MIB });
        await expect(tooLarge).rejects.toMatchObject({ code: 'ERR_STORE_FULL' });
        expect(copies()).toBe(before);
      } finally {
        await store.close();
        await run('umount', [small]);
      }
    },
  );

  test('of many blobs that come at once a few are sent at a time: what is sent is in memory', async () => {
    const store = await another();
    const go = Promise.withResolvers<void>();
    let sending = 0;
    let most = 0;
    server.intercept = (what, _request, response) => {
      if (!/^PUT .*blobs\/sha256/.test(what)) return false;
      most = Math.max(most, ++sending);
      void go.promise.then(() => {
        sending--;
        response.writeHead(200, { etag: '"x"' }).end();
      });
      return true;
    };
    const coming = Array.from({ length: 40 }, () => store.put(randomBytes(1000)));
    await vi.waitFor(() => expect(asked(/^HEAD .*blobs\/sha256/)).toHaveLength(40), 20_000);
    // One question later those that may be sent are on their way.
    await store.stat(digestOf('another'));
    go.resolve();
    await Promise.all(coming);
    expect(asked(/^PUT .*blobs\/sha256/)).toHaveLength(40);
    expect(most).toBeLessThanOrEqual(16);
  });

  test('a large blob is sent in parts; if one cannot be sent, the upload is given up and nothing is left here', async () => {
    const bytes = randomBytes(40 * MIB);
    const digest = digestOf(bytes);
    const store = await another();
    server.intercept = (what, _request, response) => {
      if (!/^PUT .*partNumber=2/.test(what)) return false;
      response.writeHead(403).end();
      return true;
    };
    await expect(store.put(bytes)).rejects.toMatchObject({ code: expect.stringMatching(/^ERR_STORE/) });
    expect(asked(/^DELETE .*uploadId=/)).not.toEqual([]);
    expect(readdirSync(store.scratch())).toEqual([]);
    server.intercept = null;
    expect(await store.stat(digest)).toBeNull();
    expect(await store.open(digest)).toBeNull();
    server.requests.length = 0;
    await store.put(bytes);
    expect(asked(/^PUT .*partNumber=/)).toHaveLength(3);
    const file = (await (await another()).localFile(digest))!;
    expect(readFileSync(file.path).equals(bytes)).toBe(true);
    await file.close();
  });

  test('a process that is killed while it writes and copies leaves whole blobs only, and no litter here', async () => {
    const shared = await another();
    for (let round = 0; round < 3; round++) {
      const root = mkdtempSync(join(directory, 'killed-'));
      const location = { ...server.location, prefix };
      const program = `
        const { S3BlobStore } = await import(${JSON.stringify(new URL('s3-blob-store.ts', import.meta.url).href)});
        const { randomBytes } = await import('node:crypto');
        const store = await S3BlobStore.open(${JSON.stringify(root)}, ${JSON.stringify(location)}, { cacheBytes: 1e6 });
        async function write() {
          while (true) {
            const file = await store.localFile(await store.put(randomBytes(600_000)));
            await file.close();
            process.stdout.write('.');
          }
        }
        for (let lane = 0; lane < 4; lane++) void write();`;
      const child = spawn(process.execPath, ['--input-type=module', '-e', program], {
        stdio: ['ignore', 'pipe', 'inherit'],
      });
      for await (const _ of child.stdout) break;
      child.kill('SIGKILL');
      if (child.exitCode === null && child.signalCode === null) await once(child, 'exit');
      const store = await another(CACHE.cacheBytes, root);
      expect(readdirSync(store.scratch())).toEqual([]);
    }
    // What was being sent when its sender was killed is not there on S3; s3rver shows a part of it, which is found out.
    let intact = 0;
    for await (const { digest } of shared.list()) {
      const file = await shared.localFile(digest);
      if (file === null) continue;
      expect(digestOf(readFileSync(file.path))).toBe(digest);
      await file.close();
      intact++;
    }
    expect(intact).toBeGreaterThanOrEqual(3);
  });

  test('what is stored already is not sent again', async () => {
    const bytes = randomBytes(MIB);
    await (await another()).put(bytes);
    server.requests.length = 0;
    await (await another()).put(bytes);
    expect(asked(/^PUT/)).toEqual([]);
  });

  test('what is copied here is served while S3 is out of reach, the rest fails with what to look at', async () => {
    const store = await another();
    const bytes = randomBytes(MIB);
    const digest = await store.put(bytes);
    const elsewhere = await (await another()).put(randomBytes(1000));
    server.intercept = (_what, _request, response) => {
      response.destroy();
      return true;
    };
    const source = (await store.open(digest))!;
    expect((await readAll(source)).equals(bytes)).toBe(true);
    await source.close();
    expect(await store.stat(digest)).toEqual({ sizeBytes: MIB });
    const unreachable = {
      code: 'ERR_STORE_IO',
      message: expect.stringMatching(/bucket blobs at http:\/\/127.*storage\.endpoint/),
    };
    await expect(store.open(elsewhere)).rejects.toMatchObject(unreachable);
    await expect(store.put(randomBytes(10))).rejects.toMatchObject(unreachable);
  });
});

describe('a bucket that cannot be used is refused when the store is opened, with the remedy', () => {
  const refused = async (change: object, message: RegExp) => {
    const root = mkdtempSync(join(directory, 'local-'));
    const opening = () => S3BlobStore.open(root, { ...server.location, ...change }, CACHE);
    await expect(opening()).rejects.toMatchObject({ code: 'ERR_STORE_IO', message });
    // The directory is free again.
    await expect(opening()).rejects.toMatchObject({ code: 'ERR_STORE_IO' });
  };

  test('no bucket', () => refused({ bucket: 'nothere' }, /bucket nothere at http.*create the bucket/));
  test('wrong credentials', () =>
    refused({ credentials: { accessKeyId: 'nobody', secretAccessKey: 'wrong' } }, /storage\.credentials/));
  test('nobody there', async () =>
    refused({ endpoint: `http://127.0.0.1:${await freePort()}` }, /storage\.endpoint/));
});
