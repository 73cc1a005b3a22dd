import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import process from 'node:process';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test, vi } from 'vitest';
import { digestOf } from '../src/oci/digest.ts';
import { requireCapability } from './support/capabilities.ts';
import { clientImage, startFilledRegistry } from './support/client-images.ts';
import { Pipeline, type RawAnswer, type RawRequest } from './support/pipeline.ts';
import type { Registry } from './support/registry.ts';
import { TestProxy } from './support/test-proxy.ts';

const canRun = requireCapability('registry');

const CONNECTIONS = 8;
const REQUESTS_A_CONNECTION = 500;
/** Requests that are written at once. */
const PIPELINED = 200;

const IMAGE = clientImage(61);
const [CONFIG, LAYER, TOP] = IMAGE.blobs as [Buffer, Buffer, Buffer];
const BASE = '/v2/lib/image';
const WHOLE_LAYER = {
  method: 'GET',
  path: `${BASE}/blobs/${digestOf(LAYER)}`,
  status: 200,
  bytes: LAYER,
} as const;

interface Exchange extends RawRequest {
  readonly status: number;
  /** What comes, or would come if it was not a HEAD. */
  readonly bytes: Buffer | null;
}

const KINDS: readonly Exchange[] = [
  { method: 'HEAD', path: `${BASE}/manifests/1`, status: 200, bytes: IMAGE.bytes },
  { method: 'GET', path: `${BASE}/manifests/1?ns=reg.example`, status: 200, bytes: IMAGE.bytes },
  { method: 'GET', path: `${BASE}/manifests/${IMAGE.descriptor.digest}`, status: 200, bytes: IMAGE.bytes },
  { ...WHOLE_LAYER, method: 'HEAD' },
  { method: 'GET', path: `${BASE}/blobs/${digestOf(CONFIG)}`, status: 200, bytes: CONFIG },
  { method: 'GET', path: `${BASE}/blobs/${digestOf(TOP)}`, status: 200, bytes: TOP },
  { ...WHOLE_LAYER, range: 'bytes=-1000', status: 206, bytes: LAYER.subarray(-1000) },
  { ...WHOLE_LAYER, range: `bytes=${LAYER.length}-`, status: 416, bytes: null },
  { method: 'GET', path: `${BASE}/manifests/not/there`, status: 404, bytes: null },
  { method: 'GET', path: `${BASE}/manifests/1?ns=other.example`, status: 404, bytes: null },
  { method: 'GET', path: '/v2/', status: 200, bytes: Buffer.from('{}') },
];

/** One of all sorts of requests that clients send, by number. */
function exchange(number: number): Exchange {
  // Now and then more than a piece of ours, and more than a socket takes at once.
  if (number % 97 === 0) return WHOLE_LAYER;
  if (number % 3 !== 0) return KINDS[number % KINDS.length]!;
  const start = (number * 7919) % (LAYER.length - 70_000);
  const end = start + 1 + ((number * 104_729) % 65_536);
  const range = `bytes=${start}-${end - 1}`;
  return { ...WHOLE_LAYER, range, status: 206, bytes: LAYER.subarray(start, end) };
}

function expectAnswer({ method, status, bytes }: Exchange, answer: RawAnswer): void {
  expect(answer.status).toBe(status);
  if (bytes === null) return;
  expect(answer.headers.get('content-length')).toBe(String(bytes.length));
  if (method === 'GET') expect(answer.body.equals(bytes)).toBe(true);
}

describe.skipIf(!canRun)('connections that are kept', () => {
  let scratch: string;
  let registry: Registry;
  let proxy: TestProxy;
  const warnings: Error[] = [];
  const onWarning = (warning: Error) => warnings.push(warning);

  beforeAll(async () => {
    scratch = mkdtempSync(join(tmpdir(), 'dadi-k-'));
    registry = await startFilledRegistry({ dir: join(scratch, 'registry') }, { 'lib/image:1': IMAGE });
    proxy = await TestProxy.start({
      upstreams: [{ name: 'reg.example', url: registry.baseUrl.href }],
      conversion: { enabled: false },
    });
    // Once through all of it: what is opened for good is open then, and everything cached.
    await talk(0, 100);
  });

  afterAll(async () => {
    await proxy?.remove();
    await registry?.stop();
    rmSync(scratch, { recursive: true });
  });

  beforeEach(() => {
    warnings.length = 0;
    process.on('warning', onWarning);
  });
  afterEach(() => {
    process.off('warning', onWarning);
  });

  /** Asks one thing after the other over one connection. */
  async function talk(first: number, count: number): Promise<void> {
    const connection = await Pipeline.connect(proxy.host);
    for (let number = first; number < first + count; number++) {
      const asked = exchange(number);
      connection.send([asked]);
      for await (const answer of connection.answers([asked])) expectAnswer(asked, answer);
    }
    await connection.destroy();
  }

  /** All that this process has open, the proxy's part and the clients' alike, is what it was. */
  async function expectDescriptors(before: number): Promise<void> {
    await vi.waitFor(() => expect(openDescriptors()).toBeLessThanOrEqual(before), { timeout: 60_000 });
    // Node gives its warnings a turn later.
    await new Promise(setImmediate);
    expect(warnings).toEqual([]);
  }

  test('thousands of requests over a few connections all get what they asked for, and leave nothing open', async () => {
    const before = openDescriptors();
    const connections = Array.from({ length: CONNECTIONS }, (_, at) =>
      talk(at * REQUESTS_A_CONNECTION, REQUESTS_A_CONNECTION),
    );
    await Promise.all(connections);
    await expectDescriptors(before);
  });

  test('requests that come without waiting for answers are answered in their order', async () => {
    const before = openDescriptors();
    const asked = Array.from({ length: PIPELINED }, (_, at) => exchange(at));
    const connection = await Pipeline.connect(proxy.host);
    connection.send(asked);
    let at = 0;
    for await (const answer of connection.answers(asked)) expectAnswer(asked[at++]!, answer);
    await connection.destroy();
    await expectDescriptors(before);
  });

  test('clients that go away in the middle of answers leave nothing open', async () => {
    const before = openDescriptors();
    for (let round = 0; round < 50; round++) {
      const asked = Array.from({ length: 20 }, (_, at) => exchange(round * 97 + at));
      const connection = await Pipeline.connect(proxy.host);
      connection.send(asked);
      let left = round % 7;
      if (left > 0) {
        for await (const _ of connection.answers(asked)) if (--left <= 0) break;
      }
      await connection.destroy();
    }
    await expectDescriptors(before);
    await talk(0, 20);
  });
});

function openDescriptors(): number {
  return readdirSync('/proc/self/fd').length;
}
