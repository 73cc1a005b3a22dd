import { createHash } from 'node:crypto';
import { expect, test, vi } from 'vitest';
import { proxy, upstream, useProxiedRegistry } from '../../../test/support/proxied-registry.ts';
import { randomBytes } from '../../../test/support/random-bytes.ts';
import { bytesOf, errorOf, TestProxy } from '../../../test/support/test-proxy.ts';
import { decodeChunkTable, verifyChunk } from '../../format/chunk-table.ts';
import { type Digest, digestOf } from '../../oci/digest.ts';

useProxiedRegistry();

const CHUNK_BYTES = 262_144;
const BLOB = randomBytes(7 * CHUNK_BYTES + 1000, 1);

function ask(digest: Digest, more = '', repository = 'lib/a', headers = {}): Promise<Response> {
  const path = `/dadi/v1/chunk-tables/${digest}?ns=reg.example&repository=${repository}${more}`;
  return proxy.fetch(path, { headers });
}

/** Has the proxy get a blob and waits for it: a reader has a blob's bytes before it is kept. */
async function keep(digest: Digest): Promise<void> {
  expect((await ask(digest, '&fetch=1&wait=20')).status).toBe(200);
}

/** Whether every chunk of the blob is as the table says. */
function describes(encoded: Buffer, blob: Buffer): boolean {
  const table = decodeChunkTable(encoded);
  if (table.blobSize !== blob.length) return false;
  return Array.from({ length: Math.ceil(blob.length / table.chunkSize) }).every((_, index) =>
    verifyChunk(table, index, blob.subarray(index * table.chunkSize, (index + 1) * table.chunkSize)),
  );
}

test('a kept blob has the chunk table of its bytes, the same for all who ask at once', async () => {
  const digest = upstream.putBlob(BLOB);
  const more = '&fetch=1&wait=20';
  const answers = await Promise.all([ask(digest, more), ask(digest, more), ask(digest, more)]);
  for (const answer of [...answers, await ask(digest)]) {
    const table = await bytesOf(answer);
    expect(answer.headers.get('docker-content-digest')).toBe(digestOf(table));
    expect(describes(table, BLOB)).toBe(true);
  }
});

test('an empty blob has a table without chunks', async () => {
  const digest = upstream.putBlob(Buffer.alloc(0));
  expect(describes(await bytesOf(await ask(digest, '&fetch=1&wait=20')), Buffer.alloc(0))).toBe(true);
});

test('for a table alone no blob is downloaded', async () => {
  const digest = upstream.putBlob(BLOB);
  expect(await errorOf(await ask(digest))).toMatchObject({ status: 404, code: 'BLOB_UNKNOWN' });
  expect(upstream.requests).toEqual([]);
});

test('who wants a blob fetched hears when it is there, and until then that it is on its way', async () => {
  const digest = upstream.putBlob(BLOB);
  const { promise: answered, resolve: letGo } = Promise.withResolvers<void>();
  upstream.intercept = ({ url = '' }, response) => {
    if (!url.endsWith(digest)) return false;
    void answered.then(() => response.end(BLOB));
    return true;
  };
  const asked = await Promise.all([ask(digest, '&fetch=1'), ask(digest, '&fetch=1')]);
  expect(asked.map(({ status }) => status)).toEqual([202, 202]);
  letGo();
  await vi.waitFor(
    async () => {
      const answer = await ask(digest, '&fetch=1&wait=20');
      expect(answer.status).toBe(200);
      expect(describes(await bytesOf(answer), BLOB)).toBe(true);
    },
    { timeout: 30_000 },
  );
  expect(upstream.count('GET', digest)).toBe(1);
});

/** The digests of a blob's chunks, one after the other. */
function digestsOf(blob: Buffer): Buffer {
  const digests: Buffer[] = [];
  for (let at = 0; at < blob.length; at += CHUNK_BYTES) {
    digests.push(
      createHash('sha256')
        .update(blob.subarray(at, at + CHUNK_BYTES))
        .digest(),
    );
  }
  return Buffer.concat(digests);
}

test('of a blob on its way who asks is told the chunks that have come, then those that come next, and in the end the table', async () => {
  const digest = upstream.putBlob(BLOB);
  const { promise: isToEnd, resolve: letGo } = Promise.withResolvers<void>();
  upstream.intercept = ({ method, url = '' }, response) => {
    if (method !== 'GET' || !url.endsWith(digest)) return false;
    response.writeHead(200, { 'content-length': BLOB.length });
    response.write(BLOB.subarray(0, 3 * CHUNK_BYTES + 1));
    void isToEnd.then(() => response.end(BLOB.subarray(3 * CHUNK_BYTES + 1)));
    return true;
  };
  let told = Buffer.alloc(0);
  while (told.length < 3 * 32) {
    const answer = await ask(digest, `&fetch=1&wait=20&known=${told.length / 32}`);
    expect(answer.status).toBe(202);
    const { sizeBytes, digests } = (await answer.json()) as { sizeBytes: number; digests: string };
    expect(sizeBytes).toBe(BLOB.length);
    told = Buffer.concat([told, Buffer.from(digests, 'base64')]);
  }
  expect(told).toEqual(digestsOf(BLOB).subarray(0, 3 * 32));
  const part = await proxy.fetch(`/v2/lib/a/blobs/${digest}?ns=reg.example&unverified=1`, {
    headers: { range: `bytes=${CHUNK_BYTES}-${2 * CHUNK_BYTES - 1}` },
  });
  expect((await bytesOf(part)).equals(BLOB.subarray(CHUNK_BYTES, 2 * CHUNK_BYTES))).toBe(true);
  const next = ask(digest, '&fetch=1&wait=20&known=3');
  expect((await ask(digest, '&fetch=1&known=3')).status).toBe(202);
  letGo();
  expect([200, 202]).toContain((await next).status);
  const whole = await ask(digest, '&fetch=1&wait=20&known=8');
  expect(whole.status).toBe(200);
  expect(describes(await bytesOf(whole), BLOB)).toBe(true);
  expect(upstream.count('GET', digest)).toBe(1);
});

test('the chunks of a blob that turns out to be another one end with an error', async () => {
  const digest = digestOf('another');
  upstream.putBlob(BLOB, digest);
  let answer = await ask(digest, '&fetch=1&wait=20&known=0');
  if (answer.status === 202) answer = await ask(digest, '&fetch=1&wait=20&known=8');
  expect(answer.status).toBe(502);
});

test('what upstream does not have, or sends otherwise than its digest says, has no table', async () => {
  expect((await ask(digestOf('none'), '&fetch=1&wait=20')).status).toBe(404);
  const other = digestOf('other');
  upstream.putBlob(BLOB, other);
  expect((await ask(other, '&fetch=1&wait=20')).status).toBe(502);
  expect((await ask('sha256:short' as Digest)).status).toBe(400);
});

test('a repository gets tables only of what it has', async () => {
  const digest = upstream.putBlob(BLOB);
  await keep(digest);
  upstream.intercept = ({ url = '' }, response) => {
    if (!url.startsWith('/v2/lib/b/')) return false;
    response.writeHead(404).end();
    return true;
  };
  expect((await ask(digest, '', 'lib/b')).status).toBe(404);
  expect((await ask(digest)).status).toBe(200);
});

test('where rights differ, who may not read a blob gets no table of it, whether or not it is kept', async () => {
  const digest = upstream.putBlob(BLOB);
  const password = (name: string) => `Basic ${Buffer.from(`${name}:secret`).toString('base64')}`;
  upstream.intercept = ({ headers }, response) => {
    if (headers.authorization === password('alice')) return false;
    response.writeHead(headers.authorization === undefined ? 401 : 403, {
      'www-authenticate': 'Basic realm="upstream"',
    });
    response.end();
    return true;
  };
  const upstreams = [{ name: 'reg.example', url: upstream.url }];
  const guarded = await TestProxy.start({
    upstreams,
    access: { mode: 'passthrough' },
    conversion: { enabled: false },
  });
  const get = async (name: string, of: Digest, more = '') =>
    guarded.fetch(`/dadi/v1/chunk-tables/${of}?ns=reg.example&repository=lib/a${more}`, {
      headers: { authorization: password(name) },
    });
  try {
    const table = await bytesOf(await get('alice', digest, '&fetch=1&wait=20'));
    expect(describes(table, BLOB)).toBe(true);
    const [kept, unknown] = [await get('bob', digest), await get('bob', digestOf('none'))];
    expect([kept.status, unknown.status]).toEqual([403, 403]);
    expect(await kept.text()).toBe((await unknown.text()).replaceAll(digestOf('none'), digest));
  } finally {
    await guarded.remove();
  }
});

test('tables are SHA-256 of pieces of 256 KiB', async () => {
  const digest = upstream.putBlob(BLOB);
  const { chunkSize, digests } = decodeChunkTable(await bytesOf(await ask(digest, '&fetch=1&wait=20')));
  expect(chunkSize).toBe(262_144);
  expect(digests.subarray(0, 32)).toEqual(createHash('sha256').update(BLOB.subarray(0, 262_144)).digest());
});
