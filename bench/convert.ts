/**
 * Conversion: of a whole image, of a layer of many small files, of one of few large files; beside it what the stages cost when
 * they are run alone in one thread, and what others do with the same layers. Rounds interleaved, medians.
 * The bound is the sum of the stages, divided by how many times faster two busy processes are than one, measured in the same
 * rounds: other users of the machine slow both down.
 * Usage: npm run build && node bench/convert.ts [--rounds N] [--only NAME] [--profile lz4|zstd]
 */
import { execFile } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { parseArgs, promisify } from 'node:util';
import { formatTable } from '../src/cli/output.ts';
import { DEFAULT_PROFILE } from '../src/convert/profile.ts';
import type { Algorithm } from '../src/format/block-codec.ts';
import { layerPaths, type Workload, workloads } from './workloads.ts';

const run = promisify(execFile);
const DADI = resolve(import.meta.dirname, '../bin/dadi.mjs');
const STAGE = join(import.meta.dirname, 'stage.ts');
/** What a conversion does with the layers, and then with the blobs that it made. */
const LAYER_STAGES = [
  'read and hash the layer',
  'unpack',
  'hash the tar',
  'read the tar',
  'compress, with checksums',
] as const;
const BLOB_STAGES = ['hash the blob', 'write the blob'] as const;
const LZ4 = { algorithm: 'lz4', level: 0, blockSize: 32_768 } as const;

interface Profile {
  readonly algorithm: Algorithm;
  readonly level: number;
  readonly blockSize: number;
}

interface Measured {
  readonly seconds: number;
  readonly cpuSeconds: number;
  readonly peakMib: number;
}

interface Converted {
  readonly durationMs: number;
  readonly tarBytes: number;
  readonly images: readonly { readonly originalBytes: number; readonly convertedBytes: number }[];
}

const { values } = parseArgs({
  options: {
    rounds: { type: 'string', default: '5' },
    only: { type: 'string' },
    profile: { type: 'string' },
  },
});
const rounds = Number(values.rounds);
const profiles: readonly Profile[] = [DEFAULT_PROFILE, LZ4].filter(
  ({ algorithm }) => values.profile === undefined || values.profile === algorithm,
);

/** What the system says of a whole process; /usr/bin/time is Debian's package `time`. */
async function measure(command: readonly string[]): Promise<Measured & { readonly stdout: string }> {
  const { stdout, stderr } = await run('/usr/bin/time', ['-f', 'bench %e %U %S %M', ...command], {
    maxBuffer: 2 ** 26,
  });
  const [, seconds, user, system, peakKib] = /bench (\S+) (\S+) (\S+) (\S+)/.exec(stderr)?.map(Number) ?? [];
  if (peakKib === undefined) throw new Error(`no figures from /usr/bin/time: ${stderr}`);
  return { stdout, seconds: seconds!, cpuSeconds: user! + system!, peakMib: peakKib / 1024 };
}

async function stageSeconds(stage: string, profile: Profile, paths: readonly string[]): Promise<number> {
  const { algorithm, level, blockSize } = profile;
  const options = [stage, algorithm, String(level), String(blockSize)];
  const { stdout } = await run(process.execPath, [STAGE, ...options, ...paths], { maxBuffer: 2 ** 20 });
  return (JSON.parse(stdout) as { seconds: number }).seconds;
}

/** How many times as much two busy processes get done as one does. */
async function speedUp(profile: Profile, paths: readonly string[]): Promise<number> {
  const one = () => stageSeconds('compress, with checksums', profile, paths);
  const alone = await one();
  const together = await Promise.all([one(), one()]);
  return (2 * alone) / Math.max(...together);
}

class Series {
  readonly #values = new Map<string, number[]>();

  add(name: string, value: number): void {
    const values = this.#values.get(name);
    if (values === undefined) this.#values.set(name, [value]);
    else values.push(value);
  }

  has(name: string): boolean {
    return this.#values.has(name);
  }

  median(name: string): number {
    const values = this.#values.get(name)?.toSorted((a, b) => a - b) ?? [];
    return values[values.length >> 1] ?? Number.NaN;
  }
}

/** Other programs believe the media type. */
function isGzip(paths: readonly string[]): boolean {
  return paths.every((path) => readFileSync(path).readUInt16BE(0) === 0x1f8b);
}

function blobsIn(layout: string, originals: readonly string[]): string[] {
  const directory = join(layout, 'blobs', 'sha256');
  const large = Math.min(...originals.map((path) => statSync(path).size)) / 8;
  return readdirSync(directory)
    .map((name) => join(directory, name))
    .filter((path) => statSync(path).size > large);
}

async function bench({ name, layout }: Workload, profile: Profile, work: string): Promise<void> {
  const paths = await layerPaths(layout);
  const series = new Series();
  let converted: Converted | null = null;
  for (let round = 0; round < rounds; round++) {
    const output = join(work, 'converted');
    const { algorithm, level, blockSize } = profile;
    const flags = [
      `--algorithm=${algorithm}`,
      `--block-size=${blockSize}`,
      ...(level > 0 ? [`--level=${level}`] : []),
    ];
    const dadi = await measure([
      process.execPath,
      DADI,
      'convert',
      `oci:${layout}:latest`,
      `oci:${output}`,
      '--json',
      ...flags,
    ]);
    converted = JSON.parse(dadi.stdout) as Converted;
    series.add('dadi seconds', dadi.seconds);
    series.add('dadi work', converted.durationMs / 1000);
    series.add('dadi cpu', dadi.cpuSeconds);
    series.add('dadi peak', dadi.peakMib);
    const blobs = blobsIn(output, paths);
    for (const stage of LAYER_STAGES) series.add(stage, await stageSeconds(stage, profile, paths));
    for (const stage of BLOB_STAGES) series.add(stage, await stageSeconds(stage, profile, blobs));
    series.add('speed-up', await speedUp(profile, paths));
    if (isGzip(paths)) {
      const all = ['sh', '-c', 'for blob; do gzip -dc "$blob" >/dev/null || exit; done', 'sh', ...paths];
      series.add('gzip -dc', (await measure(all)).seconds);
    }
    const unpack = ['umoci', 'unpack', '--image', `${layout}:latest`, join(work, 'unpacked')];
    // Takes long: the first time is enough.
    if (isGzip(paths) && round === 0) series.add('umoci unpack', (await measure(unpack)).seconds);
    rmSync(work, { recursive: true });
  }
  if (converted !== null) report(name, profile, series, converted);
}

function report(name: string, profile: Profile, series: Series, converted: Converted): void {
  const { algorithm, level, blockSize } = profile;
  const tarMb = converted.tarBytes / 1e6;
  const [image] = converted.images;
  const stages = [...LAYER_STAGES, ...BLOB_STAGES];
  // Unpacking reads the layer too; that is counted with its hash.
  const sum = stages.reduce((total, stage) => total + series.median(stage), 0);
  const bound = sum / series.median('speed-up');
  const seconds = series.median('dadi seconds');
  const row = (what: string, value: number) => [what, value.toFixed(2), (tarMb / value).toFixed(0)];
  console.log(
    `\n${name}, ${algorithm}${level > 0 ? ` level ${level}` : ''}, blocks of ${blockSize / 1024} KiB: ${tarMb.toFixed(0)} MB of tar, medians of ${rounds} rounds`,
  );
  console.log(
    formatTable(
      ['', 'SECONDS', 'MB/s OF TAR'],
      [
        row('dadi convert', seconds),
        row('  without the start of the program', series.median('dadi work')),
        ...stages.map((stage) => row(`  ${stage}, alone`, series.median(stage))),
        row('  sum of the stages', sum),
        row(`  sum / ${series.median('speed-up').toFixed(2)} (two processes)`, bound),
        ...['gzip -dc', 'umoci unpack']
          .filter((program) => series.has(program))
          .map((program) => row(program, series.median(program))),
      ],
    ),
  );
  console.log(
    `dadi convert takes ${(seconds / bound).toFixed(2)} of that bound, ${(series.median('dadi cpu') / (tarMb / 1000)).toFixed(1)} CPU s/GB, ` +
      `${series.median('dadi peak').toFixed(0)} MiB at most; its blobs have ${((image?.convertedBytes ?? 0) / (image?.originalBytes ?? 1)).toFixed(3)} of the size of the layers`,
  );
}

for (const workload of await workloads(console.error)) {
  if (values.only !== undefined && workload.name !== values.only) continue;
  for (const profile of profiles) {
    const work = mkdtempSync(join(workload.layout, '..', 'bench-'));
    try {
      await bench(workload, profile, work);
    } finally {
      rmSync(work, { recursive: true, force: true });
    }
  }
}
