import { pino } from 'pino';
import { afterEach, expect, test, vi } from 'vitest';
import { CHUNK_BYTES, type ChunkedBlob, chunkedBlob } from '../../test/support/chunked-blob.ts';
import { type HostContent, MeshHost } from '../../test/support/mesh-host.ts';
import { HttpSide } from '../oci/serving/http-side.ts';
import { Listener } from '../oci/serving/listener.ts';
import { MeshRoot } from './root/mesh-root.ts';
import { RootKey } from './root/root-key.ts';
import { treeSettingsSchema } from './root/root-limits.ts';
import { rootRoutes } from './root/root-routes.ts';

const CHUNKS = 8;
const BLOBS = [chunkedBlob(CHUNKS, 21), chunkedBlob(CHUNKS, 22)] as const;
const SECRET = { kind: 'shared-secret', secret: Buffer.from('what all the hosts know') } as const;
/** The machine that runs these tests may have much else to do. */
const PATIENT = { joinMs: 5_000, findMs: 5_000, readMs: 30_000 };
const WAIT = { timeout: 30_000, interval: 10 };

/** A host that has both blobs open. */
interface Joined {
  readonly host: MeshHost;
  readonly contents: readonly HostContent[];
}

/** A real root on a port of its own, which everybody may read from. */
class Root {
  readonly #key = RootKey.generate();
  #listener: Listener | null = null;
  #root: MeshRoot | null = null;

  async start(): Promise<void> {
    const settings = treeSettingsSchema.parse({ maxFanOut: 2, heartbeatMs: 1_000 });
    const root = new MeshRoot({ settings, key: this.#key, now: Date.now });
    this.#root = root;
    const rights = { admit: async () => {}, refusal: async () => null };
    const http = new HttpSide(rootRoutes({ root, rights }), {
      log: pino({ level: 'silent' }),
      onEnd: () => {},
      errorAnswer: (error) => ({ status: 500, headers: {}, body: String(error), isFault: true }),
    });
    const port = this.#listener?.address.port ?? 0;
    const limits = { tls: null, max: 100, requestTimeoutMs: 10_000, stalledClientMs: 10_000 };
    this.#listener = await Listener.open(http, { host: '127.0.0.1', port }, limits);
  }

  get url(): URL {
    return new URL(`http://127.0.0.1:${this.#listener!.address.port}/`);
  }

  /** Members of the tree of a blob. */
  members(blob: ChunkedBlob): number {
    return this.#root!.trees(({ blob: digest }) => digest === blob.digest)[0]?.members ?? 0;
  }

  async stop(): Promise<void> {
    await this.#listener!.close(0);
  }
}

const root = new Root();
const joined: Joined[] = [];

afterEach(async () => {
  await Promise.all(joined.splice(0).map(({ host }) => host.agent.close()));
  await root.stop();
});

/** The first one has both blobs whole; all can get from a proxy what nobody else gives. */
async function startHosts(count: number): Promise<void> {
  await root.start();
  for (let at = 0; at < count; at++) {
    const host = await MeshHost.start({ roots: [root.url], security: SECRET, budgets: PATIENT });
    const contents = BLOBS.map((blob) => host.open(blob, at === 0 ? 'all' : []));
    for (const [of, content] of contents.entries()) {
      const { bytes } = BLOBS[of]!;
      content.proxy = (index) => bytes.subarray(index * CHUNK_BYTES, (index + 1) * CHUNK_BYTES);
    }
    joined.push({ host, contents });
    await vi.waitFor(() => expect(depthOf(joined.at(-1)!)).toBeGreaterThan(0), WAIT);
  }
}

function depthOf({ host }: Joined): number {
  const places = host.agent.status().trees.map(({ place }) => place?.depth ?? 0);
  return Math.min(...places);
}

async function expectAllReadAll(hosts: readonly Joined[]): Promise<void> {
  const never = new AbortController().signal;
  const all = hosts.flatMap(({ contents }) => contents);
  await Promise.all(
    all.flatMap((content) => Array.from({ length: CHUNKS }, (_, index) => content.chunk(index, never))),
  );
  for (const { contents } of hosts) {
    for (const [at, { chunks }] of contents.entries()) {
      const bytes = Buffer.concat([...chunks].sort(([a], [b]) => a - b).map(([, chunk]) => chunk));
      expect(bytes.equals(BLOBS[at]!.bytes)).toBe(true);
    }
  }
}

test('of seven hosts that read all at once the first sends little more than to its two children', async () => {
  await startHosts(7);
  const [top, ...others] = joined;
  await expectAllReadAll(others);
  // Without a tree it would be six times all.
  expect(top!.host.agent.status().counts.sentChunks).toBeLessThanOrEqual(3 * 2 * CHUNKS);
  expect(Math.max(...joined.map(depthOf))).toBeLessThanOrEqual(3);
});

test('when a parent is gone its children read on, and the root gives them another one', async () => {
  await startHosts(6);
  const parents = new Set(joined.map(({ host }) => parentOf(host)));
  const inner = joined.findIndex(({ host }, at) => at > 0 && parents.has(host.agent.status().id));
  const [gone] = joined.splice(inner, 1);
  const { id } = gone!.host.agent.status();
  await gone!.host.agent.close();
  await expectAllReadAll(joined.slice(1));
  await vi.waitFor(() => {
    expect(root.members(BLOBS[0])).toBe(5);
    for (const { host } of joined) expect(parentOf(host)).not.toBe(id);
  }, WAIT);
});

test('a root that is started anew has all its trees again after a while, and nobody waits for it', async () => {
  await startHosts(5);
  await root.stop();
  await expectAllReadAll(joined.slice(1));
  await root.start();
  await vi.waitFor(() => {
    for (const blob of BLOBS) expect(root.members(blob)).toBe(5);
  }, WAIT);
});

test('a host that closes has left all trees', async () => {
  await startHosts(2);
  await joined.pop()!.host.agent.close();
  for (const blob of BLOBS) expect(root.members(blob)).toBe(1);
});

function parentOf(host: MeshHost): string | null {
  return host.agent.status().trees[0]?.place?.parent?.id ?? null;
}
