/**
 * Reads of a file in a mounted image whose chunks are all on disk, against the same file in the same file system,
 * uncompressed, on a loop device over a plain file. fio, rounds interleaved, the median of each.
 * Usage: node bench/mounted.ts [oci:DIRECTORY[:TAG]] (a converted image; without one, the demo's is converted first).
 * Needs root, fio and what mounting needs.
 */
import { execFile } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { formatTable } from '../src/cli/output.ts';
import { attachDevice } from '../src/client/attach/attachment.ts';
import { convertedDemo, dump, openCachedImage } from './cached-image.ts';

const run = promisify(execFile);
const ROUNDS = 5;

/** As fio calls it, and the bytes of a read. */
type Pattern = readonly ['randread' | 'read', number];

/**
 * Bytes per second of reading a whole file once, by so many threads, a part each.
 * By the page cache, which fio empties of the file before: neither file system reads past it.
 */
async function fio(
  file: string,
  sizeBytes: number,
  [pattern, blockBytes]: Pattern,
  depth: number,
): Promise<number> {
  const partBytes = Math.floor(sizeBytes / depth / blockBytes) * blockBytes;
  const { stdout } = await run('fio', [
    ...['--name=read', '--ioengine=psync', '--invalidate=1', '--readonly', `--filename=${file}`],
    ...[`--rw=${pattern}`, `--bs=${blockBytes}`, `--size=${partBytes}`],
    ...['--thread', `--numjobs=${depth}`, `--offset_increment=${partBytes}`, '--group_reporting'],
    '--output-format=json',
  ]);
  return JSON.parse(stdout.slice(stdout.indexOf('{'))).jobs[0].read.bw_bytes;
}

const median = (values: readonly number[]): number =>
  values.toSorted((a, b) => a - b)[values.length >> 1] ?? 0;

async function largestFile(directory: string): Promise<string> {
  const find = `find "$0" -xdev -type f -printf '%s %P\\n' | sort -n | tail -1 | cut -d' ' -f2-`;
  return (await run('sh', ['-c', find, directory])).stdout.trim();
}

const work = mkdtempSync(join(tmpdir(), 'dadi-bench-'));
const [ours, loop] = [join(work, 'dadi'), join(work, 'loop')];
const closing: (() => Promise<unknown>)[] = [async () => rmSync(work, { recursive: true, force: true })];
try {
  const opened = await openCachedImage(process.argv[2] ?? (await convertedDemo(work)), join(work, 'chunks'));
  closing.push(() => opened.close());
  const plain = join(work, 'plain.raw');
  await dump(opened.device, plain);
  for (const name of [ours, loop, join(work, 'attach')]) mkdirSync(name);
  const attachment = await attachDevice({
    device: opened.device,
    fsType: opened.fsType,
    workDirectory: join(work, 'attach'),
    target: ours,
  });
  closing.push(() => attachment.detach({ lazy: false }));
  await run('mount', ['-t', opened.fsType, '-o', 'ro,loop', plain, loop]);
  closing.push(() => run('umount', [loop]));
  const file = await largestFile(loop);
  // Of the loop device's: this process serves the other one, and must not wait for it.
  const { size } = statSync(join(loop, file));
  console.error(`${file}, mounted by the way of "${attachment.method}"`);
  const rows: string[][] = [];
  for (const [name, pattern, blockBytes] of [
    ['random 4 KiB', 'randread', 4096],
    ['sequential 1 MiB', 'read', 1 << 20],
  ] as const) {
    for (const depth of [1, 16]) {
      const rates: Record<string, number[]> = { [loop]: [], [ours]: [] };
      for (let round = 0; round < ROUNDS; round++) {
        for (const root of [loop, ours])
          rates[root]?.push(await fio(join(root, file), size, [pattern, blockBytes], depth));
      }
      const [base, lazy] = [median(rates[loop] ?? []), median(rates[ours] ?? [])];
      const speed = (rate: number) =>
        blockBytes === 4096 ? `${(rate / 4096 / 1000).toFixed(1)} k/s` : `${(rate / 1e6).toFixed(0)} MB/s`;
      rows.push([`${name}, depth ${depth}`, speed(base), speed(lazy), (base / lazy).toFixed(2)]);
    }
  }
  console.log(formatTable(['READS', 'LOOP, PLAIN FILE', 'DADI', 'LOOP/DADI'], rows));
} finally {
  for (const close of closing.reverse()) await close();
}
