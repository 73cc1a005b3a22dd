/**
 * Reads of a cached image through our NBD server against `nbdkit file` on the same content, uncompressed: fio with
 * its nbd engine, rounds interleaved, the median of each. The image's chunks are on disk and verified.
 * Usage: node bench/nbd.ts [oci:DIRECTORY[:TAG]] (a converted image; without one, the demo's is converted first).
 * Needs fio and nbdkit.
 */
import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { formatTable } from '../src/cli/output.ts';
import type { OpenDevice } from '../src/client/image/device.ts';
import { NbdServer } from '../src/client/nbd/nbd-server.ts';
import { FileSource } from '../src/format/file-source.ts';
import { convertedDemo, dump, openCachedImage } from './cached-image.ts';

const run = promisify(execFile);
const ROUNDS = 3;
const ROUND_SECONDS = 2;
/** What a container reads again and again; the memory cache of decompressed blocks holds it. */
const HOT_BYTES = 24 * 1024 * 1024;

interface Workload {
  readonly name: string;
  readonly pattern: 'randread' | 'read';
  readonly blockBytes: number;
  readonly depth: number;
  /** Reads stay inside the first bytes of the device. */
  readonly withinBytes: number;
}

function workloads(sizeBytes: number): Workload[] {
  const found: Workload[] = [];
  for (const [where, withinBytes] of [
    [`${HOT_BYTES >> 20} MiB of it`, HOT_BYTES],
    ['all of it', sizeBytes],
  ] as const) {
    for (const [kind, pattern, blockBytes] of [
      ['random 4 KiB', 'randread', 4096],
      ['sequential 1 MiB', 'read', 1 << 20],
    ] as const) {
      for (const depth of [1, 16]) {
        found.push({ name: `${kind}, depth ${depth}, ${where}`, pattern, blockBytes, depth, withinBytes });
      }
    }
  }
  return found;
}

async function startNbdkit(socketPath: string, file: string): Promise<ChildProcess> {
  const child = spawn('nbdkit', ['-f', '-r', '-U', socketPath, 'file', file], { stdio: 'inherit' });
  while (!existsSync(socketPath)) {
    if (child.exitCode !== null) throw new Error('nbdkit did not start: apt-get install nbdkit');
    await sleep(10);
  }
  return child;
}

/** Bytes per second. */
async function fio(socketPath: string, load: Workload): Promise<number> {
  const { stdout } = await run('fio', [
    '--name=read',
    '--ioengine=nbd',
    `--uri=nbd+unix:///?socket=${socketPath}`,
    `--rw=${load.pattern}`,
    `--bs=${load.blockBytes}`,
    `--iodepth=${load.depth}`,
    `--size=${load.withinBytes}`,
    '--time_based',
    `--runtime=${ROUND_SECONDS}`,
    '--norandommap',
    '--output-format=json',
  ]);
  // fio's engine for NBD says a line before the JSON.
  return JSON.parse(stdout.slice(stdout.indexOf('{'))).jobs[0].read.bw_bytes;
}

const median = (values: readonly number[]): number =>
  values.toSorted((a, b) => a - b)[values.length >> 1] ?? 0;

const work = mkdtempSync(join(tmpdir(), 'dadi-bench-'));
const servers: NbdServer[] = [];
let nbdkit: ChildProcess | undefined;
let image: OpenDevice | undefined;
try {
  const sockets = { nbdkit: join(work, 'nbdkit'), image: join(work, 'image'), plain: join(work, 'plain') };
  image = await openCachedImage(process.argv[2] ?? (await convertedDemo(work)), join(work, 'chunks'));
  const plainPath = join(work, 'plain.raw');
  await dump(image.device, plainPath);
  const plain = FileSource.open(plainPath);
  servers.push(await NbdServer.listen({ device: image.device, socketPath: sockets.image }));
  servers.push(await NbdServer.listen({ device: plain, socketPath: sockets.plain }));
  nbdkit = await startNbdkit(sockets.nbdkit, plainPath);
  const rows: string[][] = [];
  for (const load of workloads(Math.floor(image.device.size / 4096) * 4096)) {
    const rates = { nbdkit: [] as number[], image: [] as number[], plain: [] as number[] };
    for (let round = 0; round < ROUNDS; round++) {
      for (const who of ['nbdkit', 'image', 'plain'] as const) rates[who].push(await fio(sockets[who], load));
    }
    const [base, ours, raw] = [median(rates.nbdkit), median(rates.image), median(rates.plain)];
    const speed = (rate: number) =>
      load.blockBytes === 4096 ? `${(rate / 4096 / 1000).toFixed(1)} k/s` : `${(rate / 1e6).toFixed(0)} MB/s`;
    rows.push([
      load.name,
      speed(base),
      speed(ours),
      (base / ours).toFixed(2),
      speed(raw),
      (base / raw).toFixed(2),
    ]);
    console.error(rows.at(-1)?.join('  '));
  }
  console.log(
    formatTable(['READS', 'NBDKIT', 'DADI, IMAGE', 'NBDKIT/IMAGE', 'DADI, FILE', 'NBDKIT/FILE'], rows),
  );
  await plain.close();
} finally {
  nbdkit?.kill();
  for (const server of servers) await server.close();
  await image?.close();
  rmSync(work, { recursive: true, force: true });
}
