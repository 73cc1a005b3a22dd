import { randomBytes } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import type { ServerResponse } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, expect, test, vi } from 'vitest';
import { FakeRegistry } from '../../../test/support/fake-registry.ts';
import { type S3Server, startS3Server } from '../../../test/support/s3-server.ts';
import { bytesOf, TestProxy } from '../../../test/support/test-proxy.ts';
import { type Digest, digestOf } from '../../oci/digest.ts';
import { DirectoryBlobStore } from '../../store/directory-blob-store.ts';
import { StoreError } from '../../store/errors.ts';

const LONG = { timeout: 30_000, interval: 50 };
const BIG = randomBytes(3_000_000);

let directory: string;
let server: S3Server;
let upstream: FakeRegistry;

beforeAll(async () => {
  directory = mkdtempSync(join(tmpdir(), 'dadi-away-'));
  server = await startS3Server(directory);
});
beforeEach(async () => {
  upstream = await FakeRegistry.start();
});
afterEach(async () => {
  vi.restoreAllMocks();
  server.intercept = null;
  await upstream.stop();
});
afterAll(async () => {
  await server.stop();
  rmSync(directory, { recursive: true });
});

function config(storage: object): object {
  return {
    upstreams: [{ name: 'docker.io', url: upstream.url }],
    tagTtlMs: 0,
    conversion: { enabled: false },
    storage,
  };
}

async function pull(proxy: TestProxy, blobs: readonly Digest[]): Promise<void> {
  expect((await proxy.fetch('/v2/lib/a/manifests/1')).status).toBe(200);
  for (const digest of blobs) {
    const head = await proxy.fetch(`/v2/lib/a/blobs/${digest}`, { method: 'HEAD' });
    expect(head.status).toBe(200);
    const answer = await proxy.fetch(`/v2/lib/a/blobs/${digest}`);
    expect(answer.status).toBe(200);
    const bytes = await bytesOf(answer);
    expect(digestOf(bytes)).toBe(digest);
    expect(head.headers.get('content-length')).toBe(String(bytes.length));
  }
}

test('while the bucket is out of reach images come from upstream, those that are in it and others', async () => {
  const { bucket, endpoint, credentials } = server.location;
  const image = upstream.putImage([BIG, Buffer.from('small')], '1');
  const all = [image.config, ...image.layers];
  const storage = { kind: 's3', bucket, endpoint, credentials };
  const proxy = await TestProxy.start(config(storage));
  try {
    await pull(proxy, all);
    // It stops when all is in the bucket. Then there are no local copies.
    await proxy.stop();
    rmSync(join(proxy.directory, 'blobs'), { recursive: true });
    await proxy.start();
    const away = upstream.putImage([randomBytes(1_000_000)], '2');
    server.intercept = (_what, _request, response) => {
      response.writeHead(403).end();
      return true;
    };
    await pull(proxy, all);
    expect((await proxy.fetch('/v2/lib/a/manifests/2')).status).toBe(200);
    for (let round = 0; round < 2; round++) await pull(proxy, [away.config, ...away.layers]);
    // Then all is as before: what was pulled meanwhile is kept when it is asked for again.
    server.intercept = null;
    await vi.waitFor(async () => {
      await pull(proxy, away.layers);
      const asked = upstream.count('GET', `lib/a/blobs/${away.layers[0]}`);
      await pull(proxy, away.layers);
      expect(upstream.count('GET', `lib/a/blobs/${away.layers[0]}`)).toBe(asked);
    }, LONG);
  } finally {
    await proxy.remove();
  }
});

test('a bucket that takes questions and answers none holds up no pull', async () => {
  const { bucket, endpoint, credentials } = server.location;
  const image = upstream.putImage([BIG, Buffer.from('small')], '1');
  const storage = { kind: 's3', bucket, endpoint, credentials, prefix: 'silent' };
  const proxy = await TestProxy.start(config(storage));
  const unanswered: ServerResponse[] = [];
  try {
    server.intercept = (_what, _request, response) => unanswered.push(response) > 0;
    for (let round = 0; round < 2; round++) await pull(proxy, [image.config, ...image.layers]);
  } finally {
    server.intercept = null;
    for (const response of unanswered) response.destroy();
    await proxy.remove();
  }
});

test("a replica's full disk is no reason to remove what is in the bucket, a full bucket is", async () => {
  const { bucket, endpoint, credentials } = server.location;
  const image = upstream.putImage([BIG], '1');
  const other = upstream.putBlob(randomBytes(1_000_000));
  const storage = { kind: 's3', bucket, endpoint, credentials, prefix: 'full' };
  const proxy = await TestProxy.start({ ...config(storage), cache: { spareMs: 0 } });
  const kept = async () => {
    // The run that is under way, if there is one.
    await proxy.adminFetch('/dadi/v1/gc', { method: 'POST' });
    return ((await (await proxy.adminFetch('/dadi/v1/cache')).json()) as { blobs: number }).blobs;
  };
  try {
    await pull(proxy, [image.config, ...image.layers]);
    await vi.waitFor(async () => expect(await kept()).toBe(3), LONG);
    const writer = vi.spyOn(DirectoryBlobStore.prototype, 'writer');
    writer.mockRejectedValue(new StoreError('ERR_STORE_FULL', 'no space left'));
    await pull(proxy, [other]);
    expect(await kept()).toBe(3);
    writer.mockRestore();
    server.intercept = (what, _request, response) => {
      if (!what.startsWith('PUT')) return false;
      response.writeHead(400, { 'content-type': 'application/xml' });
      response.end('<Error><Code>QuotaExceeded</Code></Error>');
      return true;
    };
    await pull(proxy, [upstream.putBlob(randomBytes(2_000_000))]);
    await vi.waitFor(async () => expect(await kept()).toBeLessThan(3), LONG);
  } finally {
    await proxy.remove();
  }
});

test('with a disk that takes nothing any more images are passed through', async () => {
  const image = upstream.putImage([BIG], '1');
  const proxy = await TestProxy.start(config({ kind: 'directory' }));
  try {
    vi.spyOn(DirectoryBlobStore.prototype, 'writer').mockRejectedValue(
      new StoreError('ERR_STORE_IO', 'cannot begin: EROFS: read-only file system'),
    );
    for (let round = 0; round < 2; round++) await pull(proxy, [image.config, ...image.layers]);
  } finally {
    await proxy.remove();
  }
});
