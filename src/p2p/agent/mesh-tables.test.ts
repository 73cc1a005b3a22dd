import { pino } from 'pino';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { chunkedBlob } from '../../../test/support/chunked-blob.ts';
import { contentOf, MeshHost } from '../../../test/support/mesh-host.ts';
import { TestRoot } from '../../../test/support/test-root.ts';
import { encodeChunkTable } from '../../format/chunk-table.ts';
import { PEER_PATH } from '../mesh-protocol.ts';
import { zeroCounters } from './mesh-counts.ts';
import { PeerServer } from './peer-server.ts';

const BLOB = chunkedBlob(8, 21);
const CONTENT = contentOf(BLOB);
const WHERE = { registry: 'reg.example', repository: 'lib/a' };
const WAIT = { timeout: 30_000, interval: 5 };
const SIGNAL = new AbortController().signal;

let root: TestRoot;
let top: MeshHost;
const hosts: MeshHost[] = [];

beforeEach(async () => {
  root = await TestRoot.start();
  top = await start();
  top.open(BLOB, 'all');
  await joined(top);
});

afterEach(async () => {
  await Promise.all(hosts.splice(0).map(({ agent }) => agent.close()));
  await root.stop();
});

async function start(): Promise<MeshHost> {
  const host = await MeshHost.start({
    roots: [root.url],
    budgets: { joinMs: 5_000, findMs: 5_000, readMs: 30_000 },
  });
  hosts.push(host);
  return host;
}

async function joined({ agent }: MeshHost): Promise<void> {
  await vi.waitFor(() => expect(agent.status().trees[0]?.place).not.toBeNull(), WAIT);
}

test('a chunk table comes from the host above as soon as the join is answered; at the top there is none', async () => {
  const below = await start();
  below.agent.join(WHERE, [CONTENT]);
  // Its parent may be busy with other tests of this machine for longer than it would be waited for.
  await vi.waitFor(async () => {
    expect(await below.agent.table(CONTENT, SIGNAL)).toEqual(encodeChunkTable(BLOB.table));
  }, WAIT);
  expect(await top.agent.table(CONTENT, SIGNAL)).toBeNull();
});

test('a table that is another one is not taken, and who gave it is reported', async () => {
  const other = chunkedBlob(8, 22);
  const held = top.find(CONTENT.table)!;
  vi.spyOn(top, 'find').mockReturnValue({ ...held, blob: BLOB.digest, table: other.table });
  const below = await start();
  below.agent.join(WHERE, [CONTENT]);
  await vi.waitFor(async () => {
    expect(await below.agent.table(CONTENT, SIGNAL)).toBeNull();
    expect(root.reports.map(({ reason }) => reason)).toContain('wrong-bytes');
  }, WAIT);
});

test('a host that does not have it, or is gone, costs little time and no error', async () => {
  vi.spyOn(top, 'find').mockReturnValue(null);
  const below = await start();
  below.agent.join(WHERE, [CONTENT]);
  expect(await below.agent.table(CONTENT, SIGNAL)).toBeNull();
  await top.agent.close();
  hosts.shift();
  expect(await below.agent.table(CONTENT, SIGNAL)).toBeNull();
});

test('what the host above is about to open is waited for nearly as long as a child waits', async () => {
  const held = top.find(CONTENT.table)!;
  let nowMs = 0;
  let openMs = 400;
  const sleep = async (ms: number) => {
    nowMs += ms;
  };
  const server = await PeerServer.start({
    ...{
      listen: { host: '127.0.0.1', port: 0 },
      tls: null,
      uploadBytesPerSecond: 1e9,
      counters: zeroCounters(),
    },
    holder: { find: () => (nowMs % 10_000 >= openMs ? held : null) },
    tickets: { check: async () => ({ ...CONTENT, member: 'f'.repeat(32), endsAtMs: Date.now() + 60_000 }) },
    ...{ isComing: () => true, alternates: () => [], clock: { now: () => nowMs, sleep } },
    logger: pino({ enabled: false }),
  });
  try {
    const ask = (what: string) =>
      fetch(`http://127.0.0.1:${server.address.port}${PEER_PATH}/${what}`, {
        headers: { authorization: 'Dadi-Ticket a-ticket' },
      });
    const table = await ask(`tables/${CONTENT.table}`);
    expect(Buffer.from(await table.arrayBuffer())).toEqual(encodeChunkTable(BLOB.table));
    const askChunk = () => ask(`chunks/${CONTENT.table}?first=0&count=1`);
    [nowMs, openMs] = [10_000, 900];
    expect((await askChunk()).status).toBe(200);
    [nowMs, openMs] = [20_000, 1_100];
    const chunk = await askChunk();
    expect([chunk.status, await chunk.text()]).toEqual([404, expect.stringContaining('BLOB_UNKNOWN')]);
  } finally {
    await server.close();
  }
});
