import { readdir, readFile, rm, rmdir } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { SystemCallError } from '../../format/libc.ts';
import { ClientError } from '../errors.ts';
import { attachPaths } from './attach.ts';
import { listSystemMounts, unmount } from './linux-mount.ts';
import { hasEnded, identifyProcess, type ProcessIdentity, signalProcess } from './processes.ts';
import { runProgram } from './programs.ts';

/** nbdfuse ends by itself when its file system goes. */
const EXIT_TIMEOUT_MS = 5_000;
/** A lazy detach does not wait for the users of the image. */
const LAZY_EXIT_TIMEOUT_MS = 300;
/** The kernel lets go of a loop device's file a moment after the device is taken down. */
const BUSY_TIMEOUT_MS = 3_000;
const POLL_MS = 20;

/** What of one attachment is on this machine, whoever made it. */
export interface Attached {
  /** Directories the image is mounted on, the latest mount first. */
  readonly targets: readonly string[];
  readonly loopDevices: readonly string[];
  readonly isFuseMounted: boolean;
  readonly nbdfuse: ProcessIdentity | null;
}

/**
 * Finds what `attach` made with this work directory: in the kernel, not in notes, so that it is true after any
 * crash.
 */
export async function findAttached(workDirectory: string): Promise<Attached> {
  const { deviceFile, fuseDirectory } = attachPaths(workDirectory);
  const loopDevices = await loopDevicesOn(deviceFile);
  const mounts = await listSystemMounts();
  const sources = new Set([deviceFile, ...loopDevices]);
  return {
    targets: mounts.flatMap(({ source, target }) => (sources.has(source) ? [target] : [])).reverse(),
    loopDevices,
    isFuseMounted: mounts.some(({ target }) => target === fuseDirectory),
    nbdfuse: await findNbdfuse(fuseDirectory),
  };
}

export interface DetachOptions {
  /** Free the directory although somebody uses it; what serves it goes on until the last user is gone. */
  readonly lazy: boolean;
}

/**
 * Takes down what `attach` made: mount, loop device, FUSE mount, nbdfuse. What is already gone is fine. If the
 * mounted directory is in use, all stays as it is. Resolves to the nbdfuse process if a lazy detach leaves it
 * serving.
 * @throws ClientError ERR_MOUNT_BUSY, naming the directory; ERR_DETACH_FAILED with all that failed
 */
export async function detach(workDirectory: string, options: DetachOptions): Promise<ProcessIdentity | null> {
  const paths = attachPaths(workDirectory);
  const attached = await findAttached(workDirectory);
  const failures: unknown[] = [];
  const attempt = (step: Promise<unknown>) => step.catch((error) => failures.push(error));

  for (const target of attached.targets) {
    try {
      await unmount(target, options);
    } catch (error) {
      if (isCode(error, 'EBUSY')) throw busy(target, error);
      if (!isCode(error, 'EINVAL', 'ENOENT')) failures.push(error);
    }
  }
  for (const device of attached.loopDevices) await attempt(removeLoop(device, paths.deviceFile));
  if (attached.isFuseMounted) await attempt(unmountFuse(paths.fuseDirectory, options));
  const { nbdfuse } = attached;
  const waitMs = options.lazy ? LAZY_EXIT_TIMEOUT_MS : EXIT_TIMEOUT_MS;
  if (nbdfuse !== null && !(await hasEnded(nbdfuse, waitMs))) {
    if (options.lazy) return nbdfuse;
    await attempt(endProcess(nbdfuse));
  }
  await attempt(rmdir(paths.fuseDirectory).catch(ignoreMissing));
  await attempt(rm(paths.logFile, { force: true }));
  if (failures.length > 0) throw failed(failures);
  return null;
}

/** Takes everything down whoever uses it: they get I/O errors. @throws ClientError ERR_DETACH_FAILED */
export async function detachForcibly(workDirectory: string): Promise<void> {
  const stillServed = await detach(workDirectory, { lazy: true });
  if (stillServed === null) return;
  await endProcess(stillServed);
  await detach(workDirectory, { lazy: true });
}

/** Ends a process that does not end by itself, at last by force. */
async function endProcess(identity: ProcessIdentity): Promise<void> {
  await signalProcess(identity, 'SIGTERM');
  if (await hasEnded(identity, EXIT_TIMEOUT_MS)) return;
  await signalProcess(identity, 'SIGKILL');
  if (!(await hasEnded(identity, EXIT_TIMEOUT_MS))) {
    throw new ClientError('ERR_DETACH_FAILED', `process ${identity.pid} does not end, not even by SIGKILL`);
  }
}

async function loopDevicesOn(file: string): Promise<string[]> {
  const names = (await readdir('/sys/block')).filter((name) => name.startsWith('loop'));
  const found: string[] = [];
  for (const name of names) {
    if ((await backingFile(name)) === file) found.push(`/dev/${name}`);
  }
  return found;
}

async function backingFile(loopName: string): Promise<string | null> {
  const text = await readFile(`/sys/block/${loopName}/loop/backing_file`, 'utf8').catch(() => null);
  return text?.trimEnd() ?? null;
}

async function findNbdfuse(fuseDirectory: string): Promise<ProcessIdentity | null> {
  for (const name of await readdir('/proc')) {
    if (!/^\d+$/.test(name)) continue;
    const commandLine = await readFile(`/proc/${name}/cmdline`, 'utf8').catch(() => '');
    const [program, ...args] = commandLine.split('\0');
    if (program === 'nbdfuse' && args.includes(fuseDirectory)) return identifyProcess(Number(name));
  }
  return null;
}

async function removeLoop(device: string, file: string): Promise<void> {
  try {
    await runProgram('losetup', ['-d', device]);
  } catch (error) {
    if ((await backingFile(device.replace('/dev/', ''))) === file) throw error;
  }
}

async function unmountFuse(directory: string, options: DetachOptions): Promise<void> {
  const deadlineMs = performance.now() + BUSY_TIMEOUT_MS;
  for (;;) {
    try {
      await unmount(directory, options);
      return;
    } catch (error) {
      if (isCode(error, 'EINVAL', 'ENOENT')) return;
      if (!isCode(error, 'EBUSY') || performance.now() > deadlineMs) throw error;
      await sleep(POLL_MS);
    }
  }
}

function isCode(error: unknown, ...codes: readonly string[]): boolean {
  return error instanceof SystemCallError && codes.includes(error.code);
}

function ignoreMissing(error: unknown): void {
  if (!(error instanceof Error && 'code' in error && error.code === 'ENOENT')) throw error;
}

function busy(target: string, cause: unknown): ClientError {
  return new ClientError(
    'ERR_MOUNT_BUSY',
    `${target} is in use (EBUSY): end what runs or works in it ("fuser -vm ${target}" lists it); it stays mounted`,
    { cause },
  );
}

function failed(failures: readonly unknown[]): ClientError {
  const reasons = failures.map((error) => (error instanceof Error ? error.message : String(error)));
  return new ClientError('ERR_DETACH_FAILED', `not everything was taken down: ${reasons.join('; ')}`, {
    cause: new AggregateError(failures),
  });
}
