/**
 * How long pulls of cached content take while nothing is converted, and while as much is converted as is allowed:
 * `node bench/pulls-beside-conversions.ts [SECONDS]`. Needs docker-registry, skopeo, umoci.
 */
import { randomBytes } from 'node:crypto';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import process from 'node:process';
import { Agent, request } from 'undici';
import { buildImage, pushImage } from '../test/support/images.ts';
import { freePort, run, start } from '../test/support/processes.ts';
import { startRegistry } from '../test/support/registry.ts';

const MAIN = resolve(import.meta.dirname, '../src/cli/main.ts');
const SECONDS = Number(process.argv[2] ?? 10);
const CLIENTS = 4;
const RANGE_BYTES = 256 * 1024;
const IMAGES_TO_CONVERT = 12;

const work = mkdtempSync(join(tmpdir(), 'dadi-bench-'));
const registry = await startRegistry({ dir: join(work, 'registry') });
const port = await freePort();
const url = `http://127.0.0.1:${port}`;
const config = join(work, 'proxy.yaml');
writeFileSync(
  config,
  JSON.stringify({
    ...{ listen: `127.0.0.1:${port}`, admin: null, dataDirectory: join(work, 'data'), logLevel: 'warn' },
    upstreams: [{ name: 'reg.example', url: registry.baseUrl.href }],
    tagTtlMs: 3_600_000,
  }),
);
const proxy = await start(process.execPath, [MAIN, 'proxy', '--config', config], {
  logPath: join(work, 'log'),
  readyWhen: async () => (await fetch(`${url}/readyz`)).ok,
});
const dispatcher = new Agent({ connections: CLIENTS });
try {
  await main();
} finally {
  await dispatcher.close();
  await proxy.stop();
  await registry.stop();
  rmSync(work, { recursive: true });
}

async function main(): Promise<void> {
  await push('pulled', 1);
  for (let at = 0; at < IMAGES_TO_CONVERT; at++) await push(`busy${at}`, 3);
  const { layers } = (await (await fetch(`${url}/v2/lib/pulled/manifests/1`)).json()) as {
    layers: { digest: string; size: number }[];
  };
  const [layer] = layers;
  if (layer === undefined) throw new Error('the image has no layers');
  await (await fetch(`${url}/v2/lib/pulled/blobs/${layer.digest}`)).arrayBuffer();
  while ((await runningOrQueued(['pulled'])) > 0) await new Promise((wake) => setTimeout(wake, 200));

  report('idle', await measure(layer, async () => true));
  const names = Array.from({ length: IMAGES_TO_CONVERT }, (_, at) => `busy${at}`);
  for (const name of names) await (await fetch(`${url}/v2/lib/${name}/manifests/1`)).arrayBuffer();
  report('while images are converted', await measure(layer, async () => (await runningOrQueued(names)) > 0));
  console.log(
    `${await runningOrQueued(names)} of ${names.length} images were still to be converted at the end`,
  );
}

async function push(name: string, layerCount: number): Promise<void> {
  const paths = [];
  for (let at = 0; at < layerCount; at++) {
    const tree = join(work, `${name}-${at}`);
    mkdirSync(tree);
    writeFileSync(join(tree, 'random'), randomBytes(8_000_000));
    writeFileSync(join(tree, 'text'), `${name} ${at}\n`.repeat(3_000_000));
    await run('tar', ['-C', tree, '-cf', `${tree}.tar`, '.']);
    rmSync(tree, { recursive: true });
    paths.push(`${tree}.tar`);
  }
  await pushImage(await buildImage(join(work), name, paths), registry, `lib/${name}:1`);
}

async function runningOrQueued(names: readonly string[]): Promise<number> {
  let count = 0;
  for (const name of names) {
    const head = await fetch(`${url}/v2/lib/${name}/manifests/1`, { method: 'HEAD' });
    const digest = head.headers.get('docker-content-digest');
    const status = (await (await fetch(`${url}/dadi/v1/conversions/${digest}`)).json()) as { state?: string };
    if (status.state === 'running' || status.state === 'queued') count++;
  }
  return count;
}

interface Times {
  readonly head: number[];
  readonly range: number[];
}

/** Milliseconds of each request of some clients that ask one thing after the other. */
async function measure(
  { digest, size }: { digest: string; size: number },
  goesOn: () => Promise<boolean>,
): Promise<Times> {
  const times: Times = { head: [], range: [] };
  const endMs = performance.now() + SECONDS * 1000;
  let isOver = false;
  const watch = setInterval(() => void goesOn().then((goes) => (isOver ||= !goes)), 1000);
  const client = async () => {
    while (performance.now() < endMs && !isOver) {
      const startMs = performance.now();
      await drain({ path: '/v2/lib/pulled/manifests/1', method: 'HEAD' });
      const headMs = performance.now();
      times.head.push(headMs - startMs);
      const from = Math.floor(Math.random() * Math.max(1, size - RANGE_BYTES));
      const range = `bytes=${from}-${from + RANGE_BYTES - 1}`;
      await drain({ path: `/v2/lib/pulled/blobs/${digest}`, method: 'GET', headers: { range } });
      times.range.push(performance.now() - headMs);
    }
  };
  await Promise.all(Array.from({ length: CLIENTS }, client));
  clearInterval(watch);
  return times;
}

async function drain(options: { path: string; method: 'HEAD' | 'GET'; headers?: object }): Promise<void> {
  const { path, method, headers = {} } = options;
  const { body } = await request(`${url}${path}`, { method, headers: { ...headers }, dispatcher });
  await body.dump({ limit: Number.MAX_SAFE_INTEGER });
}

function report(what: string, { head, range }: Times): void {
  console.log(`${what}: ${head.length} of each`);
  for (const [name, times] of [
    ['manifest HEAD', head],
    ['256 KiB range', range],
  ] as const) {
    const sorted = times.toSorted((a, b) => a - b);
    const at = (part: number) => (sorted[Math.floor(part * (sorted.length - 1))] ?? 0).toFixed(2);
    console.log(`  ${name}: p50 ${at(0.5)} ms, p99 ${at(0.99)} ms, max ${at(1)} ms`);
  }
}
