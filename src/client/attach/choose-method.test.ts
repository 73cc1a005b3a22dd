import { expect, test } from 'vitest';
import { chooseMethod } from './choose-method.ts';

const host = { isRoot: true, hasFuse: true, hasNbd: false, kernel: [6, 12] } as const;

test.each([
  ['a kernel that mounts EROFS from files', 'erofs', host, 'file'],
  ['the same, with NBD', 'erofs', { ...host, hasNbd: true }, 'file'],
  ['the same, with NBD but without FUSE', 'erofs', { ...host, hasNbd: true, hasFuse: false }, 'nbd'],
  ['an older kernel with NBD', 'erofs', { ...host, kernel: [6, 1], hasNbd: true }, 'nbd'],
  ['an older kernel without NBD', 'erofs', { ...host, kernel: [5, 15] }, 'loop'],
  ['ext4 where there is NBD', 'ext4', { ...host, hasNbd: true }, 'nbd'],
  ['ext4 where there is none', 'ext4', { ...host, kernel: [7, 0] }, 'loop'],
] as const)('%s: %s is attached by the method for it', (_, fsType, machine, method) => {
  expect(chooseMethod(fsType, machine)).toMatchObject({ kind: 'chosen', method });
});

test.each([
  ['root', { ...host, isRoot: false }, 'root'],
  ['FUSE and NBD', { ...host, hasFuse: false }, 'modprobe nbd'],
] as const)('without %s nothing is attached, and the reason says what is missing', (_, machine, reason) => {
  expect(chooseMethod('erofs', machine)).toMatchObject({
    kind: 'unsupported',
    reason: expect.stringContaining(reason),
  });
});
