/**
 * What the choice of algorithm, level and block size costs and gains: the demo's image converted with each, its size, the
 * conversion's CPU time, and reads of the converted device with all blobs in the page cache, in one thread.
 * The layouts stay in .cache/bench/profiles, for `bench/lazy.ts` to count what a cold start fetches of each.
 * Usage: npm run build && node bench/profiles.ts [--rounds N]
 */
import { execFile } from 'node:child_process';
import { mkdirSync, rmSync } from 'node:fs';
import { join, resolve } from 'node:path';
import process from 'node:process';
import { parseArgs, promisify } from 'node:util';
import { demoImage } from '../demo/image.ts';
import { formatTable } from '../src/cli/output.ts';
import { FileSource } from '../src/format/file-source.ts';
import { LsmtLayer } from '../src/format/lsmt-layer.ts';
import { MergedDevice } from '../src/format/merged-device.ts';
import { openLayerBlob } from '../src/format/overlaybd-tar.ts';
import { layerPaths } from './workloads.ts';

const run = promisify(execFile);
const DADI = resolve(import.meta.dirname, '../bin/dadi.mjs');
const TARGET = resolve(import.meta.dirname, '../.cache/bench/profiles');
const PROFILES = [
  ['lz4', 0, 4096],
  ['lz4', 0, 16_384],
  ['lz4', 0, 32_768],
  ['zstd', 1, 4096],
  ['zstd', 1, 16_384],
  ['zstd', 1, 32_768],
  ['zstd', 2, 32_768],
  ['zstd', 3, 4096],
  ['zstd', 3, 16_384],
  ['zstd', 3, 32_768],
  ['zstd', 6, 32_768],
] as const;
const RANDOM_READS = 4000;
const SEQUENTIAL_BYTES = 1024 * 1024;

interface Figures {
  readonly cpuSecondsPerGb: number;
  readonly sizeRatio: number;
  readonly randomMicroseconds: number;
  readonly sequentialMbPerSecond: number;
}

const median = (values: readonly number[]): number =>
  values.toSorted((a, b) => a - b)[values.length >> 1] ?? Number.NaN;

async function convert(
  source: string,
  target: string,
  [algorithm, level, blockSize]: (typeof PROFILES)[number],
): Promise<Pick<Figures, 'cpuSecondsPerGb' | 'sizeRatio'>> {
  rmSync(target, { recursive: true, force: true });
  const flags = [`--algorithm=${algorithm}`, `--block-size=${blockSize}`, '--json'];
  if (level > 0) flags.push(`--level=${level}`);
  const command = [
    process.execPath,
    DADI,
    'convert',
    `oci:${source}:latest`,
    `oci:${target}:latest`,
    ...flags,
  ];
  const { stdout, stderr } = await run('/usr/bin/time', ['-f', 'bench %U %S', ...command], {
    maxBuffer: 2 ** 26,
  });
  const [, user, system] = /bench (\S+) (\S+)/.exec(stderr)?.map(Number) ?? [];
  const { tarBytes, images } = JSON.parse(stdout) as {
    tarBytes: number;
    images: { originalBytes: number; convertedBytes: number }[];
  };
  const [{ originalBytes, convertedBytes }] = images as [(typeof images)[number]];
  return {
    cpuSecondsPerGb: (user! + system!) / (tarBytes / 1e9),
    sizeRatio: convertedBytes / originalBytes,
  };
}

async function read(target: string): Promise<Pick<Figures, 'randomMicroseconds' | 'sequentialMbPerSecond'>> {
  const blobs = (await layerPaths(target)).map((path) => FileSource.open(path));
  const device = MergedDevice.open(
    await Promise.all(blobs.map(async (blob) => LsmtLayer.open(await openLayerBlob(blob)))),
  );
  const page = Buffer.alloc(4096);
  const large = Buffer.alloc(SEQUENTIAL_BYTES);
  // The first time fills the page cache.
  for (let at = 0; at + large.length <= device.size; at += large.length) await device.read(at, large);
  const sequentialStart = process.cpuUsage();
  for (let at = 0; at + large.length <= device.size; at += large.length) await device.read(at, large);
  const sequential = process.cpuUsage(sequentialStart);
  const randomStart = process.cpuUsage();
  for (let index = 0, state = 1; index < RANDOM_READS; index++) {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    await device.read((state % Math.floor(device.size / page.length)) * page.length, page);
  }
  const random = process.cpuUsage(randomStart);
  for (const blob of blobs) await blob.close();
  return {
    randomMicroseconds: (random.user + random.system) / RANDOM_READS,
    sequentialMbPerSecond: device.size / (sequential.user + sequential.system),
  };
}

const { values } = parseArgs({ options: { rounds: { type: 'string', default: '3' } } });
const { layout } = await demoImage({ signal: new AbortController().signal, report: console.error });
mkdirSync(TARGET, { recursive: true });
const figures = new Map<string, Figures[]>();
for (let round = 0; round < Number(values.rounds); round++) {
  for (const profile of PROFILES) {
    const [algorithm, level, blockSize] = profile;
    const name = `${algorithm}${level > 0 ? `-${level}` : ''}-${blockSize / 1024}k`;
    const target = join(TARGET, name);
    const figure = { ...(await convert(layout, target, profile)), ...(await read(target)) };
    figures.set(name, [...(figures.get(name) ?? []), figure]);
  }
}
console.log(
  formatTable(
    [
      'PROFILE',
      'SIZE / TAR.GZ',
      'CONVERSION, CPU s/GB',
      '4 KiB RANDOM, CPU µs',
      '1 MiB SEQUENTIAL, MB/CPU s',
    ],
    [...figures].map(([name, all]) => [
      name,
      median(all.map((each) => each.sizeRatio)).toFixed(3),
      median(all.map((each) => each.cpuSecondsPerGb)).toFixed(1),
      median(all.map((each) => each.randomMicroseconds)).toFixed(0),
      median(all.map((each) => each.sequentialMbPerSecond)).toFixed(0),
    ]),
  ),
);
