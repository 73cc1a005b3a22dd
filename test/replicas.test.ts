import { randomBytes } from 'node:crypto';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test, vi } from 'vitest';
import { type Digest, digestOf } from '../src/oci/digest.ts';
import { type ImageManifest, parseManifest } from '../src/oci/manifest.ts';
import { requireCapability } from './support/capabilities.ts';
import { buildImage, type LayoutImage, pushImage } from './support/images.ts';
import { Postgres } from './support/postgres.ts';
import { freePort, run, type StartedProcess, start } from './support/processes.ts';
import { type Registry, startRegistry } from './support/registry.ts';
import { RegistryLog } from './support/registry-log.ts';
import { type S3Server, startS3Server } from './support/s3-server.ts';
import { bytesOf } from './support/test-proxy.ts';

const canRun = requireCapability('root', 'postgres', 'registry', 'skopeo', 'umoci');
const MAIN = resolve(import.meta.dirname, '../src/cli/main.ts');
const PATIENCE = { timeout: 120_000, interval: 100 };
const LAYERS = 6;

interface Status {
  readonly state: string;
  readonly layersDone: number;
  readonly converted: { readonly digest: Digest } | null;
}

/** A `dadi proxy` of its own, with nothing of its own but local copies. */
class Replica {
  readonly directory: string;
  readonly url: string;
  process: StartedProcess | null = null;
  readonly #config: object;

  constructor(directory: string, port: number, config: object) {
    this.directory = directory;
    this.url = `http://127.0.0.1:${port}`;
    this.#config = { listen: `127.0.0.1:${port}`, dataDirectory: join(directory, 'data'), ...config };
  }

  get host(): string {
    return new URL(this.url).host;
  }

  async start(): Promise<void> {
    mkdirSync(this.directory, { recursive: true });
    const path = join(this.directory, 'proxy.yaml');
    // JSON is YAML.
    writeFileSync(path, JSON.stringify(this.#config));
    this.process = await start(process.execPath, [MAIN, 'proxy', '--config', path], {
      logPath: join(this.directory, 'log'),
      readyWhen: async () => (await fetch(`${this.url}/readyz`)).ok,
      readyTimeoutMs: 60_000,
    });
  }

  logged(message: string): Record<string, unknown>[] {
    const lines = readFileSync(join(this.directory, 'log'), 'utf8').split('\n');
    return lines.flatMap((line) => {
      if (!line.startsWith('{') || !line.endsWith('}')) return [];
      const entry = JSON.parse(line) as Record<string, unknown>;
      return entry['msg'] === message ? [entry] : [];
    });
  }

  async status(digest: Digest): Promise<Status | null> {
    const response = await fetch(`${this.url}/dadi/v1/conversions/${digest}`);
    return response.ok ? ((await response.json()) as Status) : null;
  }

  async done(digest: Digest): Promise<Digest> {
    return vi.waitFor(async () => {
      const status = await this.status(digest);
      expect(status).toMatchObject({ state: 'done' });
      return status!.converted!.digest;
    }, PATIENCE);
  }

  /** As a client that checks all digests. */
  async pull(name: string): Promise<void> {
    const layout = mkdtempSync(join(this.directory, 'pulled-'));
    await run('skopeo', [
      ...['--insecure-policy', 'copy', '--src-tls-verify=false', '--src-no-creds'],
      ...[`docker://${this.host}/${name}`, `oci:${layout}:it`],
    ]);
  }

  /** The converted form of a tag, with all its blobs, verified. */
  async converted(name: string, tag: string): Promise<ImageManifest> {
    const response = await fetch(`${this.url}/v2/${name}/manifests/${tag}_obd`);
    expect(response.status).toBe(200);
    const manifest = parseManifest(await bytesOf(response)) as ImageManifest;
    for (const { digest } of [manifest.config, ...manifest.layers]) {
      const blob = await fetch(`${this.url}/v2/${name}/blobs/${digest}`);
      expect(digestOf(await bytesOf(blob))).toBe(digest);
    }
    return manifest;
  }
}

let scratch: string;
let image: LayoutImage;
let postgres: Postgres;

beforeAll(async () => {
  if (!canRun) return;
  scratch = mkdtempSync(join(tmpdir(), 'dadi-replicas-'));
  postgres = await Postgres.start();
  const layers = [];
  for (let at = 0; at < LAYERS; at++) {
    const tree = join(scratch, `layer-${at}`);
    mkdirSync(tree);
    writeFileSync(join(tree, `random-${at}`), randomBytes(3_000_000));
    writeFileSync(join(tree, `text-${at}`), `layer ${at} of an image\n`.repeat(600_000));
    layers.push(`${tree}.tar`);
    await run('tar', ['-C', tree, '-cf', `${tree}.tar`, '.']);
  }
  image = await buildImage(scratch, 'several', layers);
}, 120_000);

afterAll(async () => {
  if (!canRun) return;
  await postgres.stop();
  rmSync(scratch, { recursive: true });
});

let work: string;
let database: string;
let s3: S3Server;
let registry: Registry;
let replicas: readonly [Replica, Replica];
let digest: Digest;

beforeEach(async () => {
  if (!canRun) return;
  work = mkdtempSync(join(scratch, 'work-'));
  database = await postgres.createDatabase();
  s3 = await startS3Server(join(work, 's3'));
  registry = await startRegistry({ dir: join(work, 'registry') });
  await pushImage(image, registry, 'lib/several:1');
  const head = await fetch(`${registry.baseUrl.href}v2/lib/several/manifests/1`, {
    method: 'HEAD',
    headers: { accept: 'application/vnd.oci.image.manifest.v1+json' },
  });
  digest = head.headers.get('docker-content-digest') as Digest;
  const { endpoint, bucket, credentials } = s3.location;
  const config = {
    admin: null,
    catalog: { kind: 'postgres', url: database },
    storage: { kind: 's3', endpoint, bucket, credentials },
    upstreams: [{ name: 'reg.example', url: registry.baseUrl.href }],
    conversion: { concurrency: 1, leaseMs: 3_000 },
  };
  const [one, two] = [await freePort(), await freePort()];
  replicas = [
    new Replica(join(work, 'one'), one, config),
    new Replica(join(work, 'two'), two, config),
  ] as const;
  await Promise.all(replicas.map((replica) => replica.start()));
}, 120_000);

afterEach(async () => {
  if (!canRun) return;
  for (const replica of replicas) await replica.process?.stop();
  await registry.stop();
  await s3.stop();
}, 60_000);

/** How often each chain was converted, by both together. */
function conversionsOfChains(): Record<string, number> {
  const counts: Record<string, number> = {};
  for (const { chain } of replicas.flatMap((replica) => replica.logged('chain converted'))) {
    counts[String(chain)] = (counts[String(chain)] ?? 0) + 1;
  }
  return counts;
}

describe.skipIf(!canRun)('two replicas that share a database and a bucket', () => {
  test('convert each chain once, download each blob once or twice, and serve the same', async () => {
    const [one, two] = replicas;
    const log = new RegistryLog(registry);
    await Promise.all(replicas.map((replica) => replica.pull('lib/several:1')));
    const made = await one.done(digest);
    expect(await two.done(digest)).toBe(made);
    expect(Object.values(conversionsOfChains())).toEqual(Array.from({ length: LAYERS }, () => 1));
    const downloads = await log.blobDownloads();
    expect(Object.keys(downloads)).toHaveLength(LAYERS + 1);
    for (const times of Object.values(downloads)) expect(times).toBeLessThanOrEqual(2);
    const both = await Promise.all(replicas.map((replica) => replica.converted('lib/several', '1')));
    expect(both.map(({ bytes }) => digestOf(bytes))).toEqual([made, made]);
  }, 240_000);

  test('when one is killed in the middle of a conversion the other goes on after the lease, with what was finished', async () => {
    await replicas[0].pull('lib/several:1');
    const killed = await vi.waitFor(async () => {
      const busy = replicas.find((replica) => replica.logged('chain converted').length > 0);
      expect(busy).toBeDefined();
      return busy!;
    }, PATIENCE);
    const survivor = replicas.find((replica) => replica !== killed)!;
    process.kill(killed.process!.pid, 'SIGKILL');
    await killed.process!.ended;
    expect(await survivor.status(digest)).toMatchObject({ state: 'running' });
    const made = await survivor.done(digest);
    // Whoever was killed may have had no time to say so.
    const counts = conversionsOfChains();
    for (const times of Object.values(counts)) expect(times).toBe(1);
    expect(survivor.logged('chain converted').length).toBeLessThan(LAYERS);
    expect(digestOf((await survivor.converted('lib/several', '1')).bytes)).toBe(made);
    await killed.start();
    expect(digestOf((await killed.converted('lib/several', '1')).bytes)).toBe(made);
  }, 240_000);

  test('can be restarted one after the other while pulls go on, and need no upstream for what they have', async () => {
    const [one, two] = replicas;
    await one.pull('lib/several:1');
    const made = await two.done(digest);
    await registry.stop();
    for (const [restarted, other] of [
      [one, two],
      [two, one],
    ] as const) {
      await restarted.process!.stop();
      await other.pull(`lib/several@${digest}`);
      // What it had for itself is lost: all that counts is shared.
      rmSync(join(restarted.directory, 'data'), { recursive: true });
      await restarted.start();
      await restarted.pull(`lib/several@${digest}`);
      expect(digestOf((await restarted.converted('lib/several', '1')).bytes)).toBe(made);
    }
  }, 240_000);
});
