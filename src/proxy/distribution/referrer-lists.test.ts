import { afterEach, expect, test, vi } from 'vitest';
import { proxy, upstream, useProxiedRegistry } from '../../../test/support/proxied-registry.ts';
import { digestOf } from '../../oci/digest.ts';
import { OCI_INDEX, OCI_MANIFEST } from '../../oci/media-types.ts';

useProxiedRegistry({ tagTtlMs: 60_000, conversion: { enabled: false } });

afterEach(() => {
  vi.restoreAllMocks();
});

test('a list of referrers that comes too late for one who asks is there for the next', async () => {
  const subject = digestOf('subject');
  const signature = { mediaType: OCI_MANIFEST, digest: digestOf('signature'), size: 1 };
  let questions = 0;
  const asked = Promise.withResolvers<void>();
  const go = Promise.withResolvers<void>();
  upstream.intercept = ({ url = '' }, response) => {
    if (!url.includes('/referrers/')) return false;
    questions++;
    asked.resolve();
    const list = { schemaVersion: 2, mediaType: OCI_INDEX, manifests: [signature] };
    void go.promise.then(() =>
      response.writeHead(200, { 'content-type': OCI_INDEX }).end(JSON.stringify(list)),
    );
    return true;
  };
  const patience = new AbortController();
  vi.spyOn(AbortSignal, 'timeout').mockReturnValueOnce(patience.signal);
  const list = () => proxy.fetch(`/v2/lib/a/referrers/${subject}`);
  const first = list();
  await asked.promise;
  patience.abort();
  expect(await (await first).json()).toMatchObject({ manifests: [] });
  go.resolve();
  await vi.waitFor(
    async () => expect(await (await list()).json()).toMatchObject({ manifests: [signature] }),
    {
      timeout: 30_000,
    },
  );
  expect(questions).toBe(1);
});
