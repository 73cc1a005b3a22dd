import { randomBytes } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test, vi } from 'vitest';
import { FakeRegistry } from '../../test/support/fake-registry.ts';
import { type S3Server, startS3Server } from '../../test/support/s3-server.ts';
import { bytesOf, TestProxy } from '../../test/support/test-proxy.ts';

let directory: string;
let server: S3Server;
let upstream: FakeRegistry;

beforeAll(async () => {
  directory = mkdtempSync(join(tmpdir(), 'dadi-storage-'));
  server = await startS3Server(directory);
  upstream = await FakeRegistry.start();
});
afterAll(async () => {
  await upstream.stop();
  await server.stop();
  rmSync(directory, { recursive: true });
});

async function downloadsOf(proxy: TestProxy): Promise<unknown[]> {
  const status = (await (await proxy.adminFetch('/dadi/v1/status')).json()) as { downloads: unknown[] };
  return status.downloads;
}

test('two proxies on one bucket download a blob from upstream once, and serve it without upstream', async () => {
  const { location } = server;
  const { bucket, endpoint, credentials } = location;
  const blob = randomBytes(3_000_000);
  const image = upstream.putImage([blob], '1');
  const config = {
    upstreams: [{ name: 'docker.io', url: upstream.url }],
    conversion: { enabled: false },
    storage: { kind: 's3', bucket, endpoint, credentials, prefix: 'shared' },
  };
  const first = await TestProxy.start(config);
  const second = await TestProxy.start(config);
  try {
    let downloads = 0;
    upstream.intercept = (request) => {
      if (request.method === 'GET' && request.url?.includes(image.layers[0]!)) downloads++;
      return false;
    };
    for (const proxy of [first, second]) {
      expect((await proxy.fetch('/v2/lib/a/manifests/1')).status).toBe(200);
      const answer = await proxy.fetch(`/v2/lib/a/blobs/${image.layers[0]}`);
      expect((await bytesOf(answer)).equals(blob)).toBe(true);
      // Readers do not wait until it is in the bucket.
      await vi.waitFor(async () => expect(await downloadsOf(proxy)).toEqual([]), 10_000);
    }
    expect(downloads).toBe(1);
    expect(first.unfinished()).toEqual([]);
    expect(second.unfinished()).toEqual([]);
  } finally {
    await first.remove();
    await second.remove();
  }
});
