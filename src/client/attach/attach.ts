import { type ChildProcess, spawn } from 'node:child_process';
import { constants } from 'node:fs';
import { access, mkdir, open, readFile, stat } from 'node:fs/promises';
import { release } from 'node:os';
import { join } from 'node:path';
import { getuid } from 'node:process';
import { setTimeout as sleep } from 'node:timers/promises';
import { SystemCallError } from '../../format/libc.ts';
import { ClientError } from '../errors.ts';
import type { FsType } from '../image/fs-type.ts';
import { mountReadOnly } from './linux-mount.ts';
import { missingProgram, runProgram } from './programs.ts';

/** Everything that attaching leaves on this machine is found again by these paths: see detach.ts. */
export interface AttachPaths {
  /** Where the device is a file. */
  readonly fuseDirectory: string;
  readonly deviceFile: string;
  readonly logFile: string;
}

export function attachPaths(workDirectory: string): AttachPaths {
  const fuseDirectory = join(workDirectory, 'fuse');
  return {
    fuseDirectory,
    deviceFile: join(fuseDirectory, 'nbd'),
    logFile: join(workDirectory, 'nbdfuse.log'),
  };
}

export interface AttachOptions {
  /** The NBD server's unix socket. */
  readonly socketPath: string;
  /** A directory of this attachment's own, which must exist. */
  readonly workDirectory: string;
  readonly sizeBytes: number;
  readonly fsType: FsType;
  /** The directory to mount on. */
  readonly target: string;
  readonly signal?: AbortSignal;
}

export type AttachMethod = 'file' | 'loop';

/** Linux has mounted EROFS straight from a file, without a loop device, since then. */
const EROFS_FROM_FILE_SINCE = [6, 12] as const;
const READY_TIMEOUT_MS = 20_000;
const POLL_MS = 10;

/**
 * Mounts the device behind an NBD socket, read-only: nbdfuse makes it a file; EROFS is mounted from that file,
 * or the file becomes a loop device, on kernels that cannot and for ext4. When it rejects, it may have left
 * things behind: call `detach` in any case.
 * @throws ClientError ERR_ATTACH_UNSUPPORTED, ERR_ATTACH_FAILED; the signal's reason
 */
export async function attach(options: AttachOptions): Promise<AttachMethod> {
  await checkMachine();
  const paths = attachPaths(options.workDirectory);
  await mkdir(paths.fuseDirectory, { recursive: true, mode: 0o700 });
  await startNbdfuse(paths, options);
  options.signal?.throwIfAborted();
  if (options.fsType === 'erofs' && mountsErofsFromFile() && (await mountFromFile(paths, options)))
    return 'file';
  await mountByLoop(paths, options);
  return 'loop';
}

async function checkMachine(): Promise<void> {
  if (getuid?.() !== 0) throw new ClientError('ERR_ATTACH_UNSUPPORTED', 'mounting needs root');
  await access('/dev/fuse', constants.R_OK | constants.W_OK).catch((cause) => {
    throw new ClientError(
      'ERR_ATTACH_UNSUPPORTED',
      'there is no /dev/fuse: load the module ("modprobe fuse"), or give the container that device',
      { cause },
    );
  });
}

/** nbdfuse in a session of its own, so that Ctrl-C reaches us only and we end things in order. */
async function startNbdfuse(paths: AttachPaths, options: AttachOptions): Promise<void> {
  const log = await open(paths.logFile, 'w', 0o600);
  let child: ChildProcess;
  try {
    const uri = `nbd+unix:///?socket=${encodeURIComponent(options.socketPath)}`;
    child = spawn('nbdfuse', ['-r', paths.fuseDirectory, uri], {
      detached: true,
      stdio: ['ignore', log.fd, log.fd],
    });
    await new Promise<void>((resolve, reject) => {
      child.once('spawn', resolve);
      child.once('error', (error) => reject(missingProgram('nbdfuse', error)));
    });
  } finally {
    await log.close();
  }
  child.unref();
  await waitForDevice(child, paths, options);
}

async function waitForDevice(child: ChildProcess, paths: AttachPaths, options: AttachOptions): Promise<void> {
  const deadlineMs = performance.now() + READY_TIMEOUT_MS;
  for (;;) {
    const found = await stat(paths.deviceFile).catch(() => null);
    if (found?.size === options.sizeBytes) return;
    options.signal?.throwIfAborted();
    const ended = child.exitCode ?? child.signalCode;
    if (ended !== null) throw await nbdfuseError(paths, `ended (${ended}) before it was ready`);
    if (performance.now() > deadlineMs) {
      child.kill('SIGTERM');
      const size = found === null ? 'there is no device' : `the device has ${found.size} bytes`;
      throw await nbdfuseError(paths, `was not ready within ${READY_TIMEOUT_MS} ms: ${size}`);
    }
    await sleep(POLL_MS);
  }
}

async function nbdfuseError(paths: AttachPaths, what: string): Promise<ClientError> {
  const complaint = (await readFile(paths.logFile, 'utf8').catch(() => '')).trim();
  return new ClientError('ERR_ATTACH_FAILED', `nbdfuse ${what}${complaint && `: ${complaint}`}`);
}

function mountsErofsFromFile(): boolean {
  const [major = 0, minor = 0] = release()
    .split('.')
    .map((part) => Number.parseInt(part, 10));
  const [sinceMajor, sinceMinor] = EROFS_FROM_FILE_SINCE;
  return major > sinceMajor || (major === sinceMajor && minor >= sinceMinor);
}

/** False where the kernel turns out not to be able to. */
async function mountFromFile(paths: AttachPaths, { target }: AttachOptions): Promise<boolean> {
  try {
    await mountReadOnly(paths.deviceFile, target, 'erofs', 'directio');
    return true;
  } catch (error) {
    if (error instanceof SystemCallError && (error.code === 'ENOTBLK' || error.code === 'EINVAL'))
      return false;
    throw mountError('erofs', target, error);
  }
}

async function mountByLoop(paths: AttachPaths, { fsType, target }: AttachOptions): Promise<void> {
  const device = await runProgram('losetup', ['-r', '--direct-io=on', '-f', '--show', paths.deviceFile]);
  // noload: a read-only device takes no journal replay.
  const data = fsType === 'ext4' ? 'noload' : null;
  await mountReadOnly(device, target, fsType, data).catch((error) => {
    throw mountError(fsType, target, error);
  });
}

function mountError(fsType: string, target: string, cause: unknown): ClientError {
  const reason = cause instanceof Error ? cause.message : String(cause);
  return new ClientError('ERR_ATTACH_FAILED', `cannot mount ${fsType} on ${target}: ${reason}`, { cause });
}
