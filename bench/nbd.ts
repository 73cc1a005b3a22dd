/**
 * Read throughput of our NBD server against `nbdkit file` on the same file, by nbdcopy, rounds interleaved.
 * Usage: node bench/nbd.ts [MiB] [rounds]
 */
import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { randomFillSync } from 'node:crypto';
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { NbdServer } from '../src/client/nbd/nbd-server.ts';
import { FileSource } from '../src/format/file-source.ts';

const run = promisify(execFile);
const sizeMib = Number(process.argv[2] ?? 256);
const rounds = Number(process.argv[3] ?? 7);

const directory = mkdtempSync(join(tmpdir(), 'dadi-bench-'));
const file = join(directory, 'file');
writeFileSync(file, randomFillSync(Buffer.allocUnsafe(sizeMib * 1024 * 1024)));

async function startNbdkit(socketPath: string): Promise<ChildProcess> {
  const child = spawn('nbdkit', ['-f', '-r', '-U', socketPath, 'file', file], { stdio: 'inherit' });
  while (!existsSync(socketPath)) {
    if (child.exitCode !== null) throw new Error('nbdkit did not start: apt-get install nbdkit');
    await sleep(10);
  }
  return child;
}

async function copyMs(socketPath: string): Promise<number> {
  const startMs = performance.now();
  await run('nbdcopy', [`nbd+unix:///?socket=${socketPath}`, 'null:']);
  return performance.now() - startMs;
}

const median = (values: number[]): number => values.toSorted((a, b) => a - b)[values.length >> 1] ?? 0;

const nbdkit = await startNbdkit(join(directory, 'nbdkit.sock'));
const source = FileSource.open(file);
const server = await NbdServer.listen({ device: source, socketPath: join(directory, 'ours.sock') });
try {
  const oursMs: number[] = [];
  const nbdkitMs: number[] = [];
  for (let round = 0; round < rounds; round++) {
    oursMs.push(await copyMs(server.socketPath));
    nbdkitMs.push(await copyMs(join(directory, 'nbdkit.sock')));
  }
  const rate = (ms: number) => `${Math.round((sizeMib * 1.048576) / (ms / 1000))} MB/s`;
  const [ours, theirs] = [median(oursMs), median(nbdkitMs)];
  console.log(`nbdcopy of ${sizeMib} MiB, median of ${rounds} interleaved rounds`);
  console.log(`  dadi    ${ours.toFixed(0)} ms  ${rate(ours)}`);
  console.log(`  nbdkit  ${theirs.toFixed(0)} ms  ${rate(theirs)}`);
  console.log(`  ratio   ${(theirs / ours).toFixed(2)} of nbdkit's throughput`);
} finally {
  await server.close();
  await source.close();
  nbdkit.kill();
  rmSync(directory, { recursive: true });
}
