import { once } from 'node:events';
import process from 'node:process';
import { MountHolder, type MountOptions } from '../client/mount/mount-holder.ts';
import type { MountMessage } from '../client/mount/mount-launcher.ts';
import { errorCode } from '../format/error-code.ts';
import { describeProgress, reportMount } from './mount-output.ts';
import { ProgressLine } from './output.ts';

/** Mounts in this process, until it is told to stop: by a signal, or by `dadi umount`. */
export async function holdMount(options: MountOptions, { json }: { readonly json: boolean }): Promise<void> {
  const parent = process.connected ? process : null;
  const tell = (message: MountMessage, then: () => unknown = () => {}) => parent?.send?.(message, then);
  const line = new ProgressLine({ quiet: json || parent !== null });
  const starting = new AbortController();
  const abandon = () => starting.abort(new Error('interrupted before the image was mounted'));
  const giveUpEvents = ['SIGINT', 'SIGTERM', 'disconnect'] as const;
  for (const event of giveUpEvents) process.once(event, abandon);
  let holder: MountHolder;
  try {
    holder = await MountHolder.start(options, {
      signal: starting.signal,
      onProgress: (progress) => {
        tell({ type: 'progress', progress });
        line.show(describeProgress(progress));
      },
      onWarning: warn,
    });
  } catch (error) {
    if (parent === null) throw error;
    tell(failure(error), () => parent.connected && parent.disconnect());
    process.exitCode = 1;
    return;
  } finally {
    line.clear();
    for (const event of giveUpEvents) process.removeListener(event, abandon);
  }
  stopOnSignals(holder);
  tell({ type: 'ready', state: holder.state });
  if (parent === null) reportMount(holder.state, { json });
  else if (process.connected) await once(process, 'disconnect');
  await holder.ended;
}

/** The first signal unmounts; if the directory is in use, the next one does it lazily. */
function stopOnSignals(holder: MountHolder): void {
  let lazy = false;
  const stop = () => {
    holder.stop({ lazy }).catch((error) => warn('cannot unmount; the next signal does it lazily', error));
    lazy = true;
  };
  process.on('SIGINT', stop).on('SIGTERM', stop);
  void holder.ended.then(() => process.removeListener('SIGINT', stop).removeListener('SIGTERM', stop));
}

function failure(error: unknown): MountMessage {
  const reasons: string[] = [];
  for (let cause = error; cause instanceof Error; cause = cause.cause) reasons.push(cause.message);
  const code = errorCode(error) ?? 'ERR_MOUNT_DAEMON';
  return { type: 'failed', code, reasons: reasons.length === 0 ? [String(error)] : reasons };
}

function warn(message: string, error: unknown): void {
  const reasons: string[] = [];
  for (let cause = error; cause instanceof Error; cause = cause.cause) reasons.push(cause.message);
  console.error(`${new Date().toISOString()} dadi mount: ${[message, ...reasons].join(': ')}`);
}
