/**
 * A process that makes one mount(2) or umount2(2) after the other, as it is told over its IPC channel. It ends when that
 * is closed.
 */
import process from 'node:process';
import { lastErrno, loadLibrary } from '../../format/native.ts';
import { MOUNT, type MountAnswer, type MountCall, UMOUNT2 } from './mount-call.ts';

const libc = loadLibrary('libc.so.6', 'libc6');
const mount = libc.func(MOUNT);
const umount2 = libc.func(UMOUNT2);

process.on('message', (call: MountCall) => {
  const result =
    call.name === 'mount'
      ? mount(call.source, call.target, call.fsType, call.flags, call.data)
      : umount2(call.target, call.flags);
  const answer: MountAnswer = { errno: result === 0 ? 0 : lastErrno() };
  process.send?.(answer);
});
