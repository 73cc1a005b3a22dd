import { expect, it } from 'vitest';
import { LayerDraft } from '../../test/support/erofs-device.ts';
import { ErofsReader } from './erofs-reader.ts';
import { measureSpace } from './erofs-space.ts';

it('the space of a file system is what its files hold, what they are padded by, and what inodes take', async () => {
  const draft = new LayerDraft()
    .file('tiny', 'x'.repeat(100))
    .file('small', 'x'.repeat(1000))
    .file('large', 'x'.repeat(10_000))
    .hardlink('again', 'large')
    .add({
      kind: 'character',
      path: 'null',
      attributes: { mode: 0o666, uid: 0, gid: 0, mtimeSeconds: 0, mtimeNanoseconds: 0, xattrs: new Map() },
      major: 1,
      minor: 3,
    })
    .symlink('long', 'l'.repeat(4090));
  for (let index = 0; index < 300; index++) draft.hardlink(`d/${'n'.repeat(20)}-${index}`, 'large');
  const { device, inodes } = await draft.on(null);
  const space = await measureSpace(await ErofsReader.open(device));
  // "." and "..", and 300 names of 22 to 24 bytes.
  const listBytes = Math.ceil((2 * 12 + 3 + 300 * 12 + 10 * 22 + 90 * 23 + 200 * 24) / 4096) * 4096;
  const rootBytes = 64 + 9 * 12 + '...tinysmalllargeagainnulllongd'.length;
  expect(space).toEqual({
    inodes,
    fileBytes: 11_100,
    filePaddingBytes: 4096 - 1000 + 3 * 4096 - 10_000,
    nameBytes: listBytes + 4096,
    inodeBytes: 2 * 4096,
    inodeSlackBytes: 2 * 4096 - (1152 + rootBytes + 64 + 100 + 64 + 64 + 64 + 64 + 64),
  });
});
