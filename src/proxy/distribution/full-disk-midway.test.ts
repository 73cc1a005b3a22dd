import { randomBytes } from 'node:crypto';
import { afterEach, expect, test, vi } from 'vitest';
import { proxy, upstream, useProxiedRegistry } from '../../../test/support/proxied-registry.ts';
import { bytesOf } from '../../../test/support/test-proxy.ts';
import { digestOf } from '../../oci/digest.ts';
import { DirectoryBlobWriter } from '../../store/directory-blob-writer.ts';
import { StoreError } from '../../store/errors.ts';

const BIG = randomBytes(8 * 1024 * 1024);

useProxiedRegistry();

afterEach(() => {
  vi.restoreAllMocks();
});

test('readers of a download for which the disk gets too small midway get the rest all the same', async () => {
  const digest = upstream.putBlob(BIG);
  // Where space cannot be reserved, it can go to others meanwhile.
  const write = DirectoryBlobWriter.prototype.write;
  vi.spyOn(DirectoryBlobWriter.prototype, 'write').mockImplementation(async function (
    this: DirectoryBlobWriter,
    ...pieces: readonly Buffer[]
  ) {
    if (this.bytesWritten < 3_000_000) return write.apply(this, [...pieces]);
    await this.abort();
    throw new StoreError('ERR_STORE_FULL', 'no space left on device');
  });
  const range = { headers: { range: 'bytes=1000000-6999999' } };
  const answers = await Promise.all([
    proxy.fetch(`/v2/lib/a/blobs/${digest}`),
    proxy.fetch(`/v2/lib/a/blobs/${digest}`),
    proxy.fetch(`/v2/lib/a/blobs/${digest}`, range),
  ]);
  const [one, two, part] = await Promise.all(answers.map(bytesOf));
  expect(digestOf(one!)).toBe(digest);
  expect(digestOf(two!)).toBe(digest);
  expect(part!.equals(BIG.subarray(1_000_000, 7_000_000))).toBe(true);
  expect(proxy.unfinished()).toEqual([]);
});
