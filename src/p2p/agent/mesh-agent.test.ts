import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { request } from 'undici';
import { afterEach, describe, expect, test, vi } from 'vitest';
import { requireCapability } from '../../../test/support/capabilities.ts';
import { CHUNK_BYTES, type ChunkedBlob, chunkedBlob } from '../../../test/support/chunked-blob.ts';
import { contentOf, type HostContent, MeshHost } from '../../../test/support/mesh-host.ts';
import { run } from '../../../test/support/processes.ts';
import { TcpRelay } from '../../../test/support/tcp-relay.ts';
import { TestRoot } from '../../../test/support/test-root.ts';
import { encodeChunkTable } from '../../format/chunk-table.ts';
import { digestOf } from '../../oci/digest.ts';
import { RootKey } from '../root/root-key.ts';
import { issueTicket } from '../tickets.ts';
import type { PeerSecurity } from './mesh.ts';

const CHUNKS = 8;
const BLOB = chunkedBlob(CHUNKS, 11);
const ALL = Array.from({ length: CHUNKS }, (_, index) => index);
const WAIT = { timeout: 30_000, interval: 5 };
/** The machine that runs these tests may have much else to do. */
const PATIENT = { joinMs: 5_000, findMs: 5_000, readMs: 30_000 };
const SECRET: PeerSecurity = { kind: 'shared-secret', secret: Buffer.from('what all the hosts know') };

const roots: TestRoot[] = [];
const hosts: MeshHost[] = [];

afterEach(async () => {
  await Promise.all(hosts.splice(0).map(({ agent }) => agent.close()));
  await Promise.all(roots.splice(0).map((root) => root.stop()));
});

async function startRoot(): Promise<TestRoot> {
  const root = await TestRoot.start();
  roots.push(root);
  return root;
}

type HostOptions = Partial<Parameters<typeof MeshHost.start>[0]>;

/** A host that has joined. */
async function startHost(
  root: TestRoot,
  has: 'all' | [] = [],
  options: HostOptions = {},
): Promise<HostContent> {
  const before = root.members.length;
  const host = await MeshHost.start({ roots: [root.url], security: SECRET, budgets: PATIENT, ...options });
  hosts.push(host);
  const content = host.open(BLOB, has);
  await vi.waitFor(() => expect(root.members.length).toBe(before + 1), WAIT);
  await vi.waitFor(() => expect(host.agent.status().trees[0]?.place).not.toBeNull(), WAIT);
  return content;
}

/** Hosts that joined one after the other, the first one having the blob. */
async function startHosts(root: TestRoot, count: number, options: HostOptions = {}): Promise<HostContent[]> {
  const contents = [await startHost(root, 'all', options)];
  while (contents.length < count) contents.push(await startHost(root, [], options));
  return contents;
}

function expectWhole(content: HostContent, blob: ChunkedBlob = BLOB): void {
  const bytes = [...content.chunks].sort(([a], [b]) => a - b).map(([, chunk]) => chunk);
  expect(Buffer.concat(bytes).equals(blob.bytes)).toBe(true);
}

describe('a content goes from host to host', () => {
  test('with a secret that all know, three hosts deep', async () => {
    const contents = await startHosts(await startRoot(), 3);
    expect(await contents[2]!.fetch(0, CHUNKS)).toEqual([]);
    expectWhole(contents[2]!);
    const [top, middle, last] = hosts.map(({ agent }) => agent.status());
    expect(last!.counts).toMatchObject({ receivedBytes: BLOB.bytes.length, sentBytes: 0 });
    expect(middle!.counts).toMatchObject({ receivedBytes: BLOB.bytes.length, sentBytes: BLOB.bytes.length });
    expect(top!.counts).toMatchObject({ receivedBytes: 0, sentChunks: CHUNKS });
    expect(top!.children).toBe(1);
  });

  test('in plain on loopback, if that is asked for', async () => {
    const contents = await startHosts(await startRoot(), 2, { security: { kind: 'plain' } });
    expect(await contents[1]!.fetch(0, CHUNKS)).toEqual([]);
    expectWhole(contents[1]!);
  });

  test('each chunk as soon as the parent has it: the last host has the first chunk before its parent has the second', async () => {
    const contents = await startHosts(await startRoot(), 3);
    const [top, middle, last] = contents;
    const held = Promise.withResolvers<void>();
    top!.onGive = async (index, bytes) => {
      if (index > 0) await held.promise;
      return bytes;
    };
    const reading = last!.fetch(0, 2);
    await vi.waitFor(() => expect(last!.has(0)).toBe(true), WAIT);
    expect(middle!.has(1)).toBe(false);
    held.resolve();
    expect(await reading).toEqual([]);
  });

  test('a host that is at the top, or alone, leaves all to the proxies at once', async () => {
    const [top] = await startHosts(await startRoot(), 1);
    expect(await top!.fetch(2, 3)).toEqual([2, 3, 4]);
    expect(hosts[0]!.agent.status().counts.missedChunks).toBe(0);
  });

  test('without any root everything is left to the proxies', async () => {
    const root = await startRoot();
    await root.stop();
    roots.pop();
    const host = await MeshHost.start({ roots: [new URL('http://127.0.0.1:9/')], security: SECRET });
    hosts.push(host);
    const content = host.open(BLOB);
    expect(await content.fetch(0, 2)).toEqual([0, 1]);
    await vi.waitFor(() => expect(host.agent.status().roots[0]?.lastError).toMatch(/no answer/), WAIT);
  });

  test('a blob that is opened at once waits for the join', async () => {
    const root = await startRoot();
    await startHosts(root, 1);
    const late = await MeshHost.start({ roots: [root.url], security: SECRET, budgets: PATIENT });
    hosts.push(late);
    expect(await late.open(BLOB).fetch(0, CHUNKS)).toEqual([]);
  });
});

describe('who is no host of the mesh gets nothing', () => {
  test('another secret', async () => {
    const root = await startRoot();
    const [, child] = await startHosts(root, 2);
    const stranger = await MeshHost.start({
      roots: [root.url],
      security: { kind: 'shared-secret', secret: Buffer.from('what somebody else knows') },
    });
    hosts.push(stranger);
    expect(await stranger.open(BLOB).fetch(0, 1)).toEqual([0]);
    expect(root.reports).toMatchObject([{ reason: 'unreachable' }]);
    expect(await child!.fetch(0, 1)).toEqual([]);
  });

  test('plain HTTP to a host that asks for the secret', async () => {
    const root = await startRoot();
    await startHosts(root, 1);
    const stranger = await MeshHost.start({ roots: [root.url], security: { kind: 'plain' } });
    hosts.push(stranger);
    expect(await stranger.open(BLOB).fetch(0, 1)).toEqual([0]);
  });

  test('a secret that can be guessed, and plain HTTP for other hosts, are not taken', async () => {
    const options = { roots: [new URL('http://127.0.0.1:9/')] };
    const short: PeerSecurity = { kind: 'shared-secret', secret: Buffer.from('short') };
    await expect(MeshHost.start({ ...options, security: short })).rejects.toMatchObject({
      code: 'ERR_MESH_SECURITY',
    });
    const open = { listen: { host: '0.0.0.0', port: 0 }, security: { kind: 'plain' } as const };
    await expect(MeshHost.start({ ...options, ...open })).rejects.toMatchObject({
      code: 'ERR_MESH_SECURITY',
    });
  });
});

describe.skipIf(!requireCapability('openssl'))('with certificates', () => {
  test('hosts whose certificates are of one authority are hosts of the mesh, others are not', async () => {
    const scratch = mkdtempSync(join(tmpdir(), 'dadi-mesh-'));
    try {
      const [ours, alien] = await Promise.all([authority(scratch, 'ours'), authority(scratch, 'alien')]);
      const root = await startRoot();
      const contents = await startHosts(root, 2, { security: ours });
      expect(await contents[1]!.fetch(0, CHUNKS)).toEqual([]);
      expectWhole(contents[1]!);
      const stranger = await MeshHost.start({ roots: [root.url], security: { ...alien, ca: ours.ca } });
      hosts.push(stranger);
      expect(await stranger.open(BLOB).fetch(0, 1)).toEqual([0]);
    } finally {
      rmSync(scratch, { recursive: true });
    }
  });
});

/** A certificate of an authority of that name. */
async function authority(scratch: string, name: string): Promise<PeerSecurity & { kind: 'certificates' }> {
  const file = (end: string) => join(scratch, `${name}.${end}`);
  const make = (subject: string, key: string, cert: string, ...more: string[]) =>
    run('openssl', [
      ...['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-days', '2'],
      ...['-subj', `/CN=${subject}`, '-keyout', file(key), '-out', file(cert), ...more],
    ]);
  await make(`${name}-ca`, 'ca.key', 'ca.pem');
  const leaf = ['-addext', 'basicConstraints=critical,CA:FALSE'];
  await make(`${name}-host`, 'key', 'pem', '-CA', file('ca.pem'), '-CAkey', file('ca.key'), ...leaf);
  const read = (end: string) => readFileSync(file(end), 'utf8');
  return { kind: 'certificates', certificate: read('pem'), key: read('key'), ca: read('ca.pem') };
}

describe('a host that fails its child', () => {
  /** The last host has the first two above it: one to ask, by `address`, and one in case. */
  async function startThree(
    address = (own: string) => Promise.resolve(own),
  ): Promise<{ root: TestRoot; contents: HostContent[] }> {
    const root = await startRoot();
    root.layout = (member) => (member === 2 ? [0, 1] : []);
    const above = await startHosts(root, 2);
    const [first] = root.members;
    root.members[0] = { ...first!, address: await address(first!.address) };
    const contents = [...above, await startHost(root)];
    for (const index of ALL) contents[1]!.chunks.set(index, contents[0]!.chunks.get(index)!);
    return { root, contents };
  }

  test('breaks off in the middle: the rest comes from the alternate', async () => {
    let relay: TcpRelay | null = null;
    const { root, contents } = await startThree(async (own) => {
      relay = await TcpRelay.start(own);
      relay.resetAfter(3 * CHUNK_BYTES);
      return relay.host;
    });
    expect(await contents[2]!.fetch(0, CHUNKS)).toEqual([]);
    expectWhole(contents[2]!);
    expect(root.reports).toMatchObject([{ lost: root.members[0]!.id, reason: 'unreachable' }]);
    await relay!.stop();
  });

  test('stalls: the alternate is asked too, and when it happens again the host is left', async () => {
    const { root, contents } = await startThree();
    contents[0]!.onGive = (index, bytes) => (index === 0 ? bytes : new Promise(() => {}));
    expect(await contents[2]!.fetch(0, 2)).toEqual([]);
    expect(await contents[2]!.fetch(2, 2)).toEqual([]);
    await vi.waitFor(() => expect(root.reports.map(({ reason }) => reason)).toEqual(['slow']), WAIT);
    expect(await contents[2]!.fetch(4, 4)).toEqual([]);
    expectWhole(contents[2]!);
  });

  test('flips a bit: nothing of that is kept, and it is never asked again', async () => {
    const { root, contents } = await startThree();
    contents[0]!.onGive = (index, bytes) => {
      const changed = Buffer.from(bytes);
      if (index === 1) changed[100]! ^= 4;
      return changed;
    };
    expect(await contents[2]!.fetch(0, CHUNKS)).toEqual([]);
    expectWhole(contents[2]!);
    expect(root.reports).toMatchObject([{ lost: root.members[0]!.id, reason: 'wrong-bytes' }]);
    const before = hosts[0]!.agent.status().counts.sentChunks;
    expect(await contents[2]!.fetch(0, 1)).toEqual([]);
    expect(hosts[0]!.agent.status().counts.sentChunks).toBe(before);
    expect(hosts[2]!.agent.status().counts).toMatchObject({ wrongChunks: 1, left: { 'wrong-bytes': 1 } });
  });

  test('cannot get a chunk itself: the alternate is asked, and the host is not blamed', async () => {
    const { root, contents } = await startThree();
    contents[0]!.chunks.delete(5);
    expect(await contents[2]!.fetch(0, CHUNKS)).toEqual([]);
    expectWhole(contents[2]!);
    expect(root.reports).toEqual([]);
  });

  test('does not have the content: it is left, and reported', async () => {
    const { root } = await startThree();
    const other = chunkedBlob(2, 99);
    const child = hosts[2]!.open(other);
    await vi.waitFor(() => expect(hosts[2]!.agent.status().trees[1]?.place).not.toBeNull(), WAIT);
    await vi.waitFor(async () => {
      expect(await child.fetch(0, 2)).toEqual([0, 1]);
      expect(new Set(root.reports.map(({ reason }) => reason))).toEqual(new Set(['refused']));
    }, WAIT);
  });
});

describe('tickets', () => {
  async function ask(
    authorization: string | null,
    what = `chunks/${contentOf(BLOB).table}?first=0&count=1`,
  ): Promise<{ status: number; body: Buffer }> {
    const { address } = hosts[0]!.agent.status();
    const headers = authorization === null ? {} : { authorization };
    const { statusCode, body } = await request(`http://${address}/dadi/v1/peer/${what}`, { headers });
    return { status: statusCode, body: Buffer.from(await body.arrayBuffer()) };
  }

  async function startOne(): Promise<TestRoot> {
    const root = await startRoot();
    await startHosts(root, 1, { security: { kind: 'plain' } });
    return root;
  }

  test('with the right one chunks and the table are given', async () => {
    const root = await startOne();
    const ticket = `Dadi-Ticket ${root.ticket(contentOf(BLOB))}`;
    const { status, body } = await ask(ticket);
    expect([status, body.equals(BLOB.bytes.subarray(0, CHUNK_BYTES))]).toEqual([200, true]);
    const table = await ask(ticket, `tables/${contentOf(BLOB).table}`);
    expect([table.status, table.body.equals(encodeChunkTable(BLOB.table))]).toEqual([200, true]);
  });

  test('none, a broken one, an expired one, a forged one, and those of other contents are refused', async () => {
    const root = await startOne();
    const content = contentOf(BLOB);
    const good = root.ticket(content);
    const forged = issueTicket(
      { ...content, member: 'f'.repeat(32), endsAtMs: Date.now() + 60_000 },
      RootKey.generate(),
    );
    const refused = [
      null,
      `Bearer ${good}`,
      'Dadi-Ticket',
      `Dadi-Ticket ${good.slice(0, -4)}AAAA`,
      `Dadi-Ticket ${root.ticket(content, 'f'.repeat(32), Date.now() - 3_600_000)}`,
      `Dadi-Ticket ${forged}`,
      `Dadi-Ticket ${root.ticket({ ...content, blob: digestOf('another blob') })}`,
      `Dadi-Ticket ${root.ticket({ ...content, table: digestOf('another table') })}`,
    ];
    for (const ticket of refused) expect((await ask(ticket)).status, String(ticket)).toBe(401);
    expect(hosts[0]!.agent.status().counts).toMatchObject({
      refusedTicket: refused.length,
      sentChunks: 0,
    });
  });

  test('what is not there, or too much at once, is not asked for', async () => {
    const root = await startOne();
    const { blob, table } = contentOf(BLOB);
    const ticket = `Dadi-Ticket ${root.ticket({ blob, table })}`;
    for (const run of ['first=0&count=0', `first=0&count=${CHUNKS + 1}`, 'first=-1&count=1', 'first=0', '']) {
      expect((await ask(ticket, `chunks/${table}?${run}`)).status, run).toBe(416);
    }
    const elsewhere = { blob, table: digestOf('a table that nobody has') };
    const other = `Dadi-Ticket ${root.ticket(elsewhere)}`;
    expect((await ask(other, `chunks/${elsewhere.table}?first=0&count=1`)).status).toBe(404);
    expect((await ask(ticket, 'secrets/x')).status).toBe(404);
  });

  test('a root that came after the host is known by its key when its first ticket comes', async () => {
    const [first, absent] = [await startRoot(), await TestRoot.start()];
    const { url } = absent;
    await absent.stop();
    await startHosts(first, 1, { security: { kind: 'plain' }, roots: [first.url, url] });
    const second = await TestRoot.start(Number(url.port));
    roots.push(second);
    const ticket = `Dadi-Ticket ${second.ticket(contentOf(BLOB))}`;
    await vi.waitFor(async () => expect((await ask(ticket)).status).toBe(200), WAIT);
  });
});

describe('a host that has much to send', () => {
  test('turns children away beyond its upload, and names whom it asks itself', async () => {
    const root = await startRoot();
    root.layout = (member) => (member === 0 ? [] : member === 1 ? [0] : [1]);
    const contents = await startHosts(root, 5, { uploadBytesPerSecond: 2_000_000 });
    const results = await Promise.all([2, 3, 4].map((at) => contents[at]!.fetch(0, CHUNKS)));
    expect(results).toEqual([[], [], []]);
    expect(hosts[1]!.agent.status()).toMatchObject({ children: 2, counts: { refusedBusy: 1 } });
    expect(root.reports).toEqual([]);
  });

  test('sends to each child in turn, however much one asks for', async () => {
    const root = await startRoot();
    root.layout = (member) => (member === 0 ? [] : [0]);
    const blob = chunkedBlob(64, 5);
    // A second for all.
    await startHosts(root, 3, { uploadBytesPerSecond: 250_000 });
    hosts[0]!.open(blob, 'all');
    const greedy = hosts[1]!.open(blob);
    const modest = hosts[2]!.open(blob);
    for (const host of [1, 2]) {
      await vi.waitFor(() => expect(hosts[host]!.agent.status().trees[1]?.place).not.toBeNull(), WAIT);
    }
    const runs = Array.from({ length: 8 }, (_, at) => greedy.fetch(at * 8, 8));
    await vi.waitFor(() => expect(greedy.chunks.size).toBeGreaterThan(0), WAIT);
    await modest.fetch(0, 4);
    expect(greedy.chunks.size).toBeLessThan(64);
    await Promise.all(runs);
    expectWhole(greedy, blob);
  });
});

describe('at the root', () => {
  test('a join brings the credentials that the root asks for', async () => {
    const root = await startRoot();
    root.authorization = 'Basic dTpw';
    const challenges: unknown[] = [];
    const host = await MeshHost.start({
      roots: [root.url],
      security: SECRET,
      authorize: async (_root, where, challenge) => {
        challenges.push([where.repository, challenge]);
        return challenge === null ? null : 'Basic dTpw';
      },
    });
    hosts.push(host);
    host.open(BLOB);
    await vi.waitFor(() => expect(host.agent.status().trees[0]?.place).not.toBeNull(), WAIT);
    expect(challenges).toEqual([
      ['lib/app', null],
      ['lib/app', 'Basic realm="test"'],
    ]);
    expect(root.joins.at(-1)!.url).toBe('/dadi/v1/mesh/join?repository=lib%2Fapp&ns=reg.example');
  });

  test('heartbeats tell what came from whom', async () => {
    const root = await startRoot();
    const contents = await startHosts(root, 2);
    await contents[1]!.fetch(0, 3);
    contents[1]!.mesh.countProxy(1000, 7);
    const [parent, child] = root.members;
    await vi.waitFor(() => {
      const edges = root.beats.filter(({ member }) => member.id === child!.id).flatMap((beat) => beat.edges);
      expect(edges).toMatchObject([
        { from: parent!.id, bytes: 3 * CHUNK_BYTES, latencyMs: expect.any(Number) },
        { from: null, bytes: 1000, latencyMs: 7 },
      ]);
    }, WAIT);
  });
});
