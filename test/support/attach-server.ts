/**
 * Serves a disk image to the kernel, as a process of its own, which can be killed.
 * Usage: node attach-server.ts FS-TYPE DISK DELAY-MS (WORK-DIRECTORY TARGET)...
 */
import { readdirSync, readFileSync } from 'node:fs';
import process from 'node:process';
import { setTimeout as sleep } from 'node:timers/promises';
import { attachDevice } from '../../src/client/attach/attachment.ts';
import { BufferSource } from '../../src/format/buffer-source.ts';

/** What it says over its IPC channel. */
export type AttachServerMessage =
  | { readonly type: 'attached'; readonly threads: readonly number[] }
  /** How many reads it has been asked for since it was attached. */
  | { readonly type: 'reading'; readonly reads: number };

const [fsType = '', disk = '', delay = '', ...places] = process.argv.slice(2);
const say = (message: AttachServerMessage) => process.send?.(message);
let reads = 0;
let isAttached = false;

class SlowSource extends BufferSource {
  override async read(offset: number, target: Buffer): Promise<void> {
    if (isAttached) {
      say({ type: 'reading', reads: ++reads });
      await sleep(Number(delay));
    }
    await super.read(offset, target);
  }
}

const device = new SlowSource(readFileSync(disk));
const threads: number[] = [];
for (let i = 0; i < places.length; i += 2) {
  await attachDevice({
    device,
    fsType: fsType === 'ext4' ? 'ext4' : 'erofs',
    workDirectory: places[i]!,
    target: places[i + 1]!,
  });
  threads.push(readdirSync('/proc/self/task').length);
}
isAttached = true;
say({ type: 'attached', threads });
