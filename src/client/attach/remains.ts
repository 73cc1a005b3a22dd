import { realpath, rm } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { isSystemError } from '../../format/error-code.ts';
import { ClientError } from '../errors.ts';
import { type AttachPaths, attachPaths } from './attach-paths.ts';
import { Holder } from './holder.ts';
import { detachKernelNbd } from './kernel-nbd-remains.ts';
import { abortFuse, ignoreUnmounted, listSystemMounts, unmount, unmountFuseFile } from './linux-mount.ts';
import { loopDevicesOn, removeLoop } from './loop-devices.ts';

/** The kernel lets go of a loop device's file a moment after the device is taken down. */
const BUSY_TIMEOUT_MS = 3_000;
const POLL_MS = 20;

/** What of one attachment is mounted on this machine, whoever made it. */
export interface Attached {
  /** Directories the image is mounted on, the latest mount first. */
  readonly targets: readonly string[];
  readonly loopDevices: readonly string[];
  readonly isFuseMounted: boolean;
}

/** Looks in the kernel's own lists, so that it is true after any crash, and touches nothing that may hang. */
export async function findAttached({ deviceFile }: AttachPaths): Promise<Attached> {
  const loopDevices = await loopDevicesOn(deviceFile);
  const mounts = await listSystemMounts();
  const sources = new Set([deviceFile, ...loopDevices]);
  return {
    targets: mounts.flatMap(({ source, target }) => (sources.has(source) ? [target] : [])).reverse(),
    loopDevices,
    isFuseMounted: mounts.some(({ target }) => target === deviceFile),
  };
}

/**
 * Takes down what is left of an attachment that no process serves any more, whoever uses it: they get I/O errors. What
 * is already gone is fine. The work directory stays, without what attaching put into it.
 * @throws ClientError ERR_DETACH_FAILED with all that failed
 */
export async function detachRemains(workDirectory: string): Promise<void> {
  const paths = await attachPaths(workDirectory);
  const steps = new Steps();
  await steps.try(realpath(workDirectory).then(detachKernelNbd));
  // First of all, so that nothing below waits for a read that nobody answers.
  await steps.try(
    abortFuse(paths.deviceFile).catch((error) => {
      if (!isSystemError(error, 'EBUSY')) ignoreUnmounted(error);
    }),
  );
  await steps.try(Holder.find(paths).then((holder) => holder?.end()));
  const { targets } = await findAttached(paths);
  for (const target of targets) {
    await steps.try(unmount(target, { lazy: true }).catch(ignoreUnmounted));
  }
  await removeBelow(paths, steps, { lazy: true });
  // By its files the next attempt finds what is left.
  steps.check();
  await removeFiles(paths, steps);
  steps.check();
}

/** Removes the loop devices and the FUSE file system that an unmounted image stood on. */
export async function removeBelow(
  paths: AttachPaths,
  steps: Steps,
  options: { readonly lazy: boolean },
): Promise<void> {
  const { loopDevices, isFuseMounted } = await findAttached(paths);
  for (const device of loopDevices) await steps.try(removeLoop(device, paths.deviceFile));
  if (isFuseMounted) await steps.try(unmountFuse(paths.deviceFile, options));
}

async function removeFiles(paths: AttachPaths, steps: Steps): Promise<void> {
  for (const path of Object.values(paths)) await steps.try(rm(path, { force: true }));
}

async function unmountFuse(file: string, options: { readonly lazy: boolean }): Promise<void> {
  const deadlineMs = performance.now() + BUSY_TIMEOUT_MS;
  for (;;) {
    try {
      await unmountFuseFile(file, options);
      return;
    } catch (error) {
      if (!isSystemError(error, 'EBUSY') || performance.now() > deadlineMs) return ignoreUnmounted(error);
      await sleep(POLL_MS);
    }
  }
}

/** Steps that are all taken, whichever of them fails. */
export class Steps {
  readonly #failures: unknown[] = [];

  async try(step: Promise<unknown>): Promise<void> {
    await step.catch((error) => this.#failures.push(error));
  }

  /** @throws ClientError ERR_DETACH_FAILED with all that failed */
  check(): void {
    if (this.#failures.length === 0) return;
    const reasons = this.#failures.map((error) => (error instanceof Error ? error.message : String(error)));
    throw new ClientError('ERR_DETACH_FAILED', `not everything was taken down: ${reasons.join('; ')}`, {
      cause: new AggregateError(this.#failures),
    });
  }
}
