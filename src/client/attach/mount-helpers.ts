import { type ChildProcess, fork } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import pLimit from 'p-limit';
import { SystemCallError } from '../../format/libc.ts';
import { ClientError } from '../errors.ts';
import type { MountAnswer, MountCall } from './mount-call.ts';

const PROGRAM = fileURLToPath(
  new URL(import.meta.url.endsWith('.ts') ? './mount-helper.ts' : './mount-helper.js', import.meta.url),
);
/** Calls may wait for a registry, and others should not wait for them; but each takes a process of some 50 MB. */
const MAX_HELPERS = 16;
/** Starting one takes longer than a mount. */
const IDLE_MS = 30_000;

const turns = pLimit(MAX_HELPERS);
const idle = new Set<MountHelper>();
/** The last idle one stays, however long nothing is mounted. */
let keepsOne = false;

/**
 * Makes the call in another process, for it reads what this process serves, or waits for such reads. In a thread of
 * this process it would take one that serves reads (libuv's pool has four); and when this process is killed, a thread
 * that waits in the kernel keeps it, with its locks and ports, until somebody answers: the next daemon, which cannot
 * start.
 * @throws SystemCallError; ClientError ERR_ATTACH_FAILED if the helper ends
 */
export async function callInHelper(call: MountCall): Promise<void> {
  const errno = await turns(async () => {
    const helper = takeIdle() ?? new MountHelper();
    const answer = await helper.call(call);
    helper.rest();
    return answer;
  });
  if (errno !== 0) throw new SystemCallError(`${call.name}(${describe(call)}, …)`, errno);
}

/** For a mount that is to come soon: a helper starts now, if none is idle, and need not be waited for then. */
export function prepareMount(): void {
  if (idle.size === 0) new MountHelper().rest();
}

/**
 * From now on a helper is ready as long as this process runs, at the price of 10 MB: to start one takes as much processor
 * time as a fifth of a container's first start.
 */
export function stayReadyToMount(): void {
  keepsOne = true;
  prepareMount();
}

function takeIdle(): MountHelper | null {
  const [helper] = idle;
  helper?.wake();
  return helper ?? null;
}

function describe(call: MountCall): string {
  return call.name === 'mount' ? call.source : call.target;
}

class MountHelper {
  readonly #process: ChildProcess;
  readonly #failed = Promise.withResolvers<never>();
  #timer: NodeJS.Timeout | null = null;

  constructor() {
    // Ctrl-C and the like are not for it, and it is not to hold a directory that somebody unmounts.
    this.#process = fork(PROGRAM, {
      cwd: '/',
      detached: true,
      execArgv: [],
      stdio: ['ignore', 'ignore', 'ignore', 'ipc'],
    });
    const fail = (how: string) => {
      this.#leaveIdle();
      this.#failed.reject(new ClientError('ERR_ATTACH_FAILED', `the process that mounts has ended: ${how}`));
    };
    this.#process.on('error', (error) => fail(error.message));
    this.#process.once('exit', (code, signal) => fail(String(signal ?? `exit code ${code}`)));
    this.#failed.promise.catch(() => {});
  }

  async call(call: MountCall): Promise<number> {
    const answer = new Promise<MountAnswer>((resolve) => this.#process.once('message', resolve));
    this.#process.send(call);
    return (await Promise.race([answer, this.#failed.promise])).errno;
  }

  /** It keeps nobody from ending: when this process does, so does the helper. */
  rest(): void {
    this.#process.unref();
    this.#process.channel?.unref();
    idle.add(this);
    this.#timer = setTimeout(() => {
      if (keepsOne && idle.size === 1) return;
      this.#leaveIdle();
      this.#process.disconnect();
    }, IDLE_MS).unref();
  }

  wake(): void {
    this.#leaveIdle();
    this.#process.ref();
    this.#process.channel?.ref();
  }

  #leaveIdle(): void {
    idle.delete(this);
    if (this.#timer !== null) clearTimeout(this.#timer);
  }
}
