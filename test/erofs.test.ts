import { execFileSync } from 'node:child_process';
import {
  chmodSync,
  linkSync,
  lutimesSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import path from 'node:path';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { ErofsReader } from '../src/format/erofs-reader.ts';
import { FileSource } from '../src/format/file-source.ts';
import { requireCapability } from './support/capabilities.ts';
import { type BlockDevice, LayerDraft } from './support/erofs-device.ts';
import { MountBench } from './support/kernel-tree.ts';
import { buildStack, stackOfLayers } from './support/random-layers.ts';
import { snapshotByReader } from './support/tree-snapshot.ts';

describe.skipIf(!requireCapability('root', 'loop', 'erofs', 'erofs-utils', 'python'))(
  'the kernel and fsck.erofs',
  () => {
    let bench: MountBench;
    beforeAll(() => {
      bench = new MountBench();
    });
    afterAll(() => bench.remove());

    async function expectKernelToAgree(device: BlockDevice): Promise<void> {
      expect(await bench.snapshotByKernel(bench.checkedImage(device))).toEqual(
        await snapshotByReader(device),
      );
    }

    it('accept every state of random stacks of layers and show what the image specification asks for', async () => {
      await fc.assert(
        fc.asyncProperty(stackOfLayers(), async (stack) => {
          for await (const { model, built } of buildStack(stack)) {
            if (built === null) continue;
            expect(await bench.snapshotByKernel(bench.checkedImage(built.device))).toEqual(model.snapshot());
          }
        }),
        { numRuns: 100, seed: 20_260_802 },
      );
    });

    it('find all names of a directory of 20,000 entries, also after one in the middle is gone', async () => {
      const draft = new LayerDraft();
      for (let index = 0; index < 20_000; index++) draft.file(`big/file-${index}`, `${index}`);
      const first = await draft.on(null);
      await expectKernelToAgree(first.device);
      const second = await new LayerDraft().whiteout('big/file-10000').file('big/zz', 'new').on(first.device);
      await expectKernelToAgree(second.device);
      const third = await new LayerDraft()
        .file('big/file-10000', 'again')
        .file('big/file-10000a', 'and one more')
        .whiteout('big/zz')
        .on(second.device);
      await expectKernelToAgree(third.device);
      await bench.mounted(bench.checkedImage(third.device), (directory) => {
        expect(readdirSync(path.join(directory, 'big'))).toHaveLength(20_001);
      });
    });

    it('find the last name of a directory that ends where the next inode begins', async () => {
      const draft = new LayerDraft();
      for (let length = 1; length <= 64; length++) {
        draft.directory(`d${length}`).file(`d${length}/${'n'.repeat(length)}`, `${length}`);
      }
      await expectKernelToAgree((await draft.on(null)).device);
    });

    it('read xattrs that need many blocks, and files behind them', async () => {
      const xattrs = new Map([
        ['trusted.a', Buffer.alloc(65_535, 1)],
        ['trusted.b', Buffer.alloc(65_535, 2)],
        ['security.x', Buffer.alloc(65_535, 3)],
      ]);
      const first = await new LayerDraft()
        .file('file', Buffer.alloc(5000, 'f'), { xattrs })
        .directory('directory', { xattrs })
        .directory('', { xattrs })
        .symlink('link', 'x'.repeat(4095), { xattrs })
        .file('directory/small', 'small')
        .on(null);
      await expectKernelToAgree(first.device);
      const second = await new LayerDraft()
        .directory('directory')
        .hardlink('second', 'file')
        .on(first.device);
      await expectKernelToAgree(second.device);
      const third = await new LayerDraft().directory('').file('new', 'n').on(second.device);
      await expectKernelToAgree(third.device);
    });

    it('obey POSIX ACLs and file capabilities that a layer brings', async () => {
      const acl = Buffer.from(
        '0200000001000600ffffffff02000700e803000004000400ffffffff10000700ffffffff20000400ffffffff',
        'hex',
      );
      const capability = Buffer.from('0100000200200000000000000000000000000000', 'hex');
      const { device } = await new LayerDraft()
        .file('with-acl', 'a', { mode: 0o674, xattrs: new Map([['system.posix_acl_access', acl]]) })
        .directory('inherited', { xattrs: new Map([['system.posix_acl_default', acl]]) })
        .file('ping', 'p', { mode: 0o755, xattrs: new Map([['security.capability', capability]]) })
        .on(null);
      await expectKernelToAgree(device);
    });

    it('walk paths 2,000 directories deep', async () => {
      const deep = Array(2000).fill('d').join('/');
      const first = await new LayerDraft().file(`${deep}/file`, 'deep').on(null);
      const second = await new LayerDraft()
        .file(`${deep}/second`, 'deep too')
        .whiteout(`${deep}/file`)
        .on(first.device);
      const image = bench.checkedImage(second.device);
      await bench.mounted(image, (directory) => {
        expect(execFileSync('sh', ['-c', `cd '${directory}' && cat ${deep}/*`], { encoding: 'utf8' })).toBe(
          'deep too',
        );
      });
      const third = await new LayerDraft().whiteout('d').on(second.device);
      expect(third.inodes).toBe(1);
      bench.checkedImage(third.device);
    });

    it('accept an empty first layer', async () => {
      const { device, totalBlocks } = await new LayerDraft().on(null);
      expect(totalBlocks).toBe(1);
      await expectKernelToAgree(device);
    });
  },
);

describe('an image made by mkfs.erofs', () => {
  let bench: MountBench;
  let source: string;
  beforeAll(() => {
    bench = new MountBench();
    source = bench.file('source');
    mkdirSync(path.join(source, 'many'), { recursive: true });
    for (const size of [0, 1, 4000, 4096, 4097, 300_000]) {
      writeFileSync(path.join(source, `file-${size}`), Buffer.alloc(size, `${size} `));
    }
    for (let index = 0; index < 3000; index++) writeFileSync(path.join(source, 'many', `name-${index}`), '');
    for (const name of ['one', 'two', 'three']) {
      const file = path.join(source, name);
      writeFileSync(file, name);
      execFileSync('setfattr', ['-n', 'user.shared', '-v', 'the same for all of them', file]);
      execFileSync('setfattr', ['-n', 'user.own', '-v', name, file]);
    }
    chmodSync(path.join(source, 'one'), 0o4711);
    symlinkSync('many/name-1', path.join(source, 'link'));
    linkSync(path.join(source, 'two'), path.join(source, 'two-again'));
    execFileSync('mkfifo', [path.join(source, 'fifo')]);
    utimesSync(path.join(source, 'one'), 1_600_000_000, 1_600_000_000);
    lutimesSync(path.join(source, 'link'), 1, 1);
  });
  afterAll(() => bench.remove());

  it.each([
    ['compact inodes', ['-Eforce-inode-compact', '-T1500000000', '-x1']],
    ['extended inodes', ['-Eforce-inode-extended', '-x1']],
    ['the defaults of the tool', []],
  ])('is read with %s', async (_, options) => {
    const image = bench.file('made.erofs');
    execFileSync('mkfs.erofs', ['--quiet', ...options, image, source], { stdio: 'pipe' });
    const device = FileSource.open(image);
    try {
      const reader = await ErofsReader.open(device);
      const seen = new Map<string, string>();
      for await (const { path: name, inode } of reader.walk()) {
        const stat = statSync(path.join(source, name), { throwIfNoEntry: false });
        seen.set(name, inode.type);
        if (inode.type === 'file') {
          expect(await reader.readAll(inode)).toEqual(readFileSync(path.join(source, name)));
          expect([inode.mode, inode.nlink, inode.uid]).toEqual([
            (stat?.mode ?? 0) & 0o7777,
            stat?.nlink,
            stat?.uid,
          ]);
        }
      }
      expect(seen.size).toBe(1 + 6 + 1 + 3000 + 3 + 3);
      expect(seen.get('fifo')).toBe('fifo');
      const link = await reader.lookup('link');
      expect(link && (await reader.readLink(link))).toBe('many/name-1');
      const two = await reader.lookup('two-again');
      expect(two?.nid).toBe((await reader.lookup('two'))?.nid);
      const xattrs = two && (await reader.xattrs(two));
      expect(xattrs?.get('user.shared')?.toString()).toBe('the same for all of them');
      expect(xattrs?.get('user.own')?.toString()).toBe('two');
      const one = await reader.lookup('one');
      const isCompact = options.includes('-Eforce-inode-compact');
      expect(one).toMatchObject({ mtimeSeconds: isCompact ? 1_500_000_000 : 1_600_000_000 });
    } finally {
      await device.close();
    }
  });

  it('is refused when it is compressed', async () => {
    const image = bench.file('compressed.erofs');
    execFileSync('mkfs.erofs', ['--quiet', '-zlz4hc', image, source], { stdio: 'pipe' });
    const device = FileSource.open(image);
    const read = async () => {
      const reader = await ErofsReader.open(device);
      for await (const { inode } of reader.walk()) if (inode.type === 'file') await reader.readAll(inode);
    };
    await expect(read()).rejects.toMatchObject({ code: 'ERR_UNSUPPORTED' });
    await device.close();
  });

  it('is not taken as the base of layers', async () => {
    const image = bench.file('foreign.erofs');
    execFileSync('mkfs.erofs', ['--quiet', '-Eforce-inode-compact', image, source], { stdio: 'pipe' });
    const device = FileSource.open(image);
    const { buildErofsLayer } = await import('../src/format/erofs-writer.ts');
    const built = buildErofsLayer(
      {
        parent: device,
        entries: [{ kind: 'hardlink', path: 'new', target: 'one', changes: null }],
        dataBlocks: 0,
        readTail: () => {},
        uuid: Buffer.alloc(16),
      },
      () => {},
    );
    await expect(built).rejects.toMatchObject({ code: 'ERR_UNSUPPORTED' });
    await device.close();
  });
});
