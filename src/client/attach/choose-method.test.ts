import process from 'node:process';
import { expect, test, vi } from 'vitest';
import { chooseMethod, inspectHost } from './choose-method.ts';

const host = { isRoot: true, hasFuse: true, canServeFuse: true, hasNbd: false, kernel: [6, 12] } as const;

test.each([
  ['a kernel that mounts EROFS from files', 'erofs', host, 'file'],
  ['the same, with NBD', 'erofs', { ...host, hasNbd: true }, 'file'],
  ['the same, with NBD but without FUSE', 'erofs', { ...host, hasNbd: true, hasFuse: false }, 'nbd'],
  ['an older kernel with NBD', 'erofs', { ...host, kernel: [6, 1], hasNbd: true }, 'nbd'],
  ['a kernel whose NBD devices have names', 'erofs', { ...host, kernel: [5, 14], hasNbd: true }, 'nbd'],
  ['a kernel whose NBD devices have none', 'erofs', { ...host, kernel: [5, 13], hasNbd: true }, 'loop'],
  ['a Node.js that cannot wait for FUSE', 'erofs', { ...host, hasNbd: true, canServeFuse: false }, 'nbd'],
  ['an older kernel without NBD', 'erofs', { ...host, kernel: [5, 15] }, 'loop'],
  ['ext4 where there is NBD', 'ext4', { ...host, hasNbd: true }, 'nbd'],
  ['ext4 where there is none', 'ext4', { ...host, kernel: [7, 0] }, 'loop'],
] as const)('%s: %s is attached by the method for it', (_, fsType, machine, method) => {
  expect(chooseMethod(fsType, machine)).toMatchObject({ kind: 'chosen', method });
});

test.each([
  ['root', { ...host, isRoot: false }, 'root'],
  ['FUSE and NBD', { ...host, hasFuse: false }, 'modprobe nbd'],
  ['FUSE and new NBD', { ...host, hasFuse: false, hasNbd: true, kernel: [5, 10] }, '/dev/fuse'],
  ["Node's way to serve FUSE, and NBD", { ...host, canServeFuse: false }, 'Node.js'],
] as const)('without %s nothing is attached, and the reason says what is missing', (_, machine, reason) => {
  expect(chooseMethod('erofs', machine)).toMatchObject({
    kind: 'unsupported',
    reason: expect.stringContaining(reason),
  });
});

test('a Node.js that has lost its pipe handle is seen before anything is attached', async () => {
  expect(await inspectHost()).toMatchObject({ canServeFuse: true });
  const gone = vi
    .spyOn(process as unknown as { binding: () => unknown }, 'binding')
    .mockImplementation(() => {
      throw new Error('No such module: pipe_wrap');
    });
  try {
    expect(await inspectHost()).toMatchObject({ canServeFuse: false });
  } finally {
    gone.mockRestore();
  }
});
