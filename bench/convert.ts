/**
 * Conversion of an image in an OCI layout, beside what anybody does with it: gzip -dc of its layers, one after the
 * other, and a full unpack by umoci. Rounds interleaved; whole processes, `dadi` as it is built.
 * Usage: npm run build && node bench/convert.ts [oci-layout [tag [rounds]]]; without a layout, the demo's image
 */
import { execFile } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { promisify } from 'node:util';
import { demoImage } from '../demo/image.ts';
import { formatTable } from '../src/cli/output.ts';
import { ImageLayout } from '../src/oci/image-layout.ts';
import { parseManifest } from '../src/oci/manifest.ts';

const run = promisify(execFile);
const DADI = resolve(import.meta.dirname, '../bin/dadi.mjs');

const [layoutArgument, tag = 'latest', roundsArgument = '5'] = process.argv.slice(2);
const layoutPath =
  layoutArgument ?? (await demoImage({ signal: new AbortController().signal, report: console.error })).layout;
const layout = await ImageLayout.open(layoutPath);
const { bytes, descriptor } = await layout.resolve(tag);
const manifest = parseManifest(bytes, descriptor.mediaType);
if (manifest.kind !== 'image') throw new Error(`${layoutPath}:${tag} is no image, but an ${manifest.kind}`);
const blobs = manifest.layers.map(({ digest }) => layout.blobPath(digest));
const originalBytes = manifest.layers.reduce((sum, { size }) => sum + size, 0);

interface Measured {
  readonly seconds: number;
  readonly cpuSeconds: number;
  readonly peakMib: number;
}

/** What the system says of a whole process; /usr/bin/time is Debian's package `time`. */
async function measure(command: readonly string[]): Promise<Measured & { readonly stdout: string }> {
  const { stdout, stderr } = await run('/usr/bin/time', ['-f', 'bench %e %U %S %M', ...command], {
    maxBuffer: 2 ** 26,
  });
  const [, seconds, user, system, peakKib] = /bench (\S+) (\S+) (\S+) (\S+)/.exec(stderr)?.map(Number) ?? [];
  if (peakKib === undefined) throw new Error(`no figures from /usr/bin/time: ${stderr}`);
  return { stdout, seconds: seconds!, cpuSeconds: user! + system!, peakMib: peakKib / 1024 };
}

const work = mkdtempSync(join(layoutPath, '..', 'bench-'));
let tarBytes = 0;
let convertedBytes = 0;
const programs = {
  'dadi convert': async (round: number) => {
    const { stdout, ...measured } = await measure([
      process.execPath,
      DADI,
      'convert',
      `oci:${layoutPath}:${tag}`,
      `oci:${join(work, `converted-${round}`)}`,
      '--json',
    ]);
    const result = JSON.parse(stdout) as { tarBytes: number; images: { convertedBytes: number }[] };
    tarBytes = result.tarBytes;
    convertedBytes = result.images[0]!.convertedBytes;
    return measured;
  },
  'gzip -dc': () =>
    measure(['sh', '-c', 'for blob; do gzip -dc "$blob" >/dev/null || exit; done', 'sh', ...blobs]),
  'umoci unpack': (round: number) =>
    measure(['umoci', 'unpack', '--image', `${layoutPath}:${tag}`, join(work, `unpacked-${round}`)]),
};
const figures = new Map<string, Measured[]>(Object.keys(programs).map((name) => [name, []]));
try {
  for (let round = 0; round < Number(roundsArgument); round++) {
    for (const [name, program] of Object.entries(programs)) figures.get(name)!.push(await program(round));
  }
} finally {
  rmSync(work, { recursive: true, force: true });
}

const median = (values: readonly number[]): number =>
  values.toSorted((a, b) => a - b)[values.length >> 1] ?? 0;
const middle = (name: string, key: keyof Measured) => median(figures.get(name)!.map((each) => each[key]));
console.log(
  `${layoutPath}:${tag}: ${(tarBytes / 1e6).toFixed(0)} MB of tar, medians of ${roundsArgument} interleaved rounds`,
);
console.log(
  formatTable(
    ['PROGRAM', 'SECONDS', 'MB/s OF TAR', 'CPU s/GB', 'PEAK MiB', 'TIME / dadi'],
    [...figures.keys()].map((name) => [
      name,
      middle(name, 'seconds').toFixed(2),
      (tarBytes / 1e6 / middle(name, 'seconds')).toFixed(0),
      (middle(name, 'cpuSeconds') / (tarBytes / 1e9)).toFixed(1),
      middle(name, 'peakMib').toFixed(0),
      (middle(name, 'seconds') / middle('dadi convert', 'seconds')).toFixed(2),
    ]),
  ),
);
console.log(
  `converted size: ${(convertedBytes / originalBytes).toFixed(3)} of the original's compressed size`,
);
