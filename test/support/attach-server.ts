/**
 * Serves a disk image to the kernel, as a process of its own, which can be killed. Its reads need libuv's threads, as
 * those of a cache on disk do.
 * Usage: node attach-server.ts FS-TYPE DISK DELAY-MS in-turn|at-once (WORK-DIRECTORY TARGET)...
 * In turn: reads are delayed only once all is attached. At once: from the first.
 */
import { readdirSync } from 'node:fs';
import process from 'node:process';
import { setTimeout as sleep } from 'node:timers/promises';
import { attachDevice } from '../../src/client/attach/attachment.ts';
import type { BlockDevice } from '../../src/client/nbd/nbd-connection.ts';
import { FileSource } from '../../src/format/file-source.ts';

/** What it says over its IPC channel. */
export type AttachServerMessage =
  | { readonly type: 'attached'; readonly threads: readonly number[] }
  /** How many reads it has been asked for since they are delayed. */
  | { readonly type: 'reading'; readonly reads: number };

const [fsType = '', disk = '', delay = '', how = '', ...places] = process.argv.slice(2);
const say = (message: AttachServerMessage) => process.send?.(message);
let reads = 0;
let isDelaying = how === 'at-once';

const file = FileSource.open(disk);
const device: BlockDevice = {
  size: file.size,
  async read(offset, target) {
    if (isDelaying) {
      say({ type: 'reading', reads: ++reads });
      await sleep(Number(delay));
    }
    await file.read(offset, target);
  },
  close: () => file.close(),
};

const threads: number[] = [];
const attaching: Promise<void>[] = [];
for (let i = 0; i < places.length; i += 2) {
  const attached = attachDevice({
    device,
    fsType: fsType === 'ext4' ? 'ext4' : 'erofs',
    workDirectory: places[i]!,
    target: places[i + 1]!,
  }).then(() => {
    threads.push(readdirSync('/proc/self/task').length);
  });
  if (how === 'at-once') attaching.push(attached);
  else await attached;
}
await Promise.all(attaching);
isDelaying = true;
say({ type: 'attached', threads });
