import { createHash } from 'node:crypto';
import {
  closeSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { open, readFile, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { zstdCompressSync } from 'node:zlib';
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest';
import { DEFAULT_LIMITS } from '../src/convert/layer-limits.ts';
import { digestOf, parseDigest } from '../src/oci/digest.ts';
import { OCI_LAYER_TAR } from '../src/oci/media-types.ts';
import { requireCapability } from './support/capabilities.ts';
import { archive, dir, file, type Judge, type LayerCase, symlink } from './support/layer-cases.ts';
import { ARCHIVE_CASES } from './support/layer-cases-archives.ts';
import { LINK_CASES } from './support/layer-cases-links.ts';
import { MARKER_CASES } from './support/layer-cases-markers.ts';
import { makeTree, PACKED_CASES } from './support/layer-cases-packed.ts';
import { LayerConverter } from './support/layer-converter.ts';
import { type JudgedImage, LayerJudges, putLayers } from './support/layer-judges.ts';
import { withMountedLayers } from './support/mounted-layers.ts';
import { run } from './support/processes.ts';
import { REFUSED_CASES } from './support/refused-layers.ts';
import { tarHeader } from './support/tar-blocks.ts';
import { madeMember } from './support/tar-maker.ts';
import { diffTrees, readTree, type TreeEntry } from './support/tree.ts';

const canRun = requireCapability('root', 'fuse', 'erofs', 'erofs-utils');
const canJudge = requireCapability('umoci', 'containerd', 'bsdtar', 'python');

const work = mkdtempSync(join(tmpdir(), 'dadi-l-'));
let converter: LayerConverter;
beforeAll(async () => {
  converter = await LayerConverter.open(join(work, 'converted'));
});
afterAll(async () => {
  await converter.close();
  rmSync(work, { recursive: true, force: true });
});

function layerOf(bytes: Buffer) {
  return { mediaType: OCI_LAYER_TAR, bytes, diffId: digestOf(bytes) };
}

/** What the kernel shows of the converted layers, once fsck.erofs is content with them. */
async function mountedTree(archives: readonly Buffer[]): Promise<TreeEntry[]> {
  return withMountedLayers(
    await converter.convert(archives.map(layerOf)),
    async ({ directory, deviceFile }) => {
      await run('fsck.erofs', [deviceFile]);
      return readTree(directory);
    },
  );
}

describe.skipIf(!canRun || !canJudge)(
  'layers, converted and mounted, are what umoci and containerd unpack',
  () => {
    const scratch = join(work, 'judged');
    let judges: LayerJudges;
    let images = 0;

    beforeAll(async () => {
      judges = await LayerJudges.start(scratch);
      await makeTree(join(scratch, 'tree'));
    });
    afterAll(() => judges.stop());

    test.each(
      [...PACKED_CASES, ...ARCHIVE_CASES, ...LINK_CASES, ...MARKER_CASES].map(
        (layerCase) => [layerCase.name, layerCase] as const,
      ),
    )('%s', async (_name, layerCase) => {
      const { layers } = layerCase;
      const archives = typeof layers === 'function' ? await layers(scratch) : layers;
      const directory = join(scratch, `image-${++images}`);
      mkdirSync(directory);
      const image = await putLayers(join(directory, 'oci'), archives);
      // Within one layer it hardly matters to containerd where the files go.
      const containerd: Judge[] = archives.length > 1 ? ['native', 'overlayfs'] : ['native'];
      const asked: Judge[] = ['umoci', ...containerd, ...(layerCase.also ? [layerCase.also] : [])];
      const ours = mountedTree(archives);
      const verdicts = asked.map((judge) => verdict(judge, image, ours));
      const expected = asked.map((judge) => expectedVerdict(judge, layerCase));
      expect(await Promise.all(verdicts)).toEqual(expected);
    });

    /** What a judge makes otherwise of an image than we do, in lines; or why it takes no such image. */
    async function verdict(judge: Judge, image: JudgedImage, ours: Promise<TreeEntry[]>) {
      let theirs: TreeEntry[];
      try {
        theirs = await judges.unpack(judge, image);
      } catch (error) {
        await ours;
        return { judge, refuses: (error as Error).message };
      }
      const differences = diffTrees(theirs, await ours)
        .map((line) => line.replace(/^(.*?: (?:missing|unexpected|\w+)).*$/, '$1'))
        // Of a root that no layer lists, and for containerd of any.
        .filter((line) => line !== 'the root: mtimeNs');
      return { judge, differences: differences.sort() };
    }

    function expectedVerdict(judge: Judge, { dissent, unlisted = [], touched = [] }: LayerCase) {
      const own = dissent?.[judge] ?? {};
      if (typeof own['refuses'] === 'string')
        return { judge, refuses: expect.stringContaining(own['refuses']) };
      const times = [...unlisted, ...(judge === 'umoci' ? [] : touched)].map((path) => `${path}: mtimeNs`);
      return { judge, differences: [...Object.keys(own), ...times].sort() };
    }
  },
);

describe.skipIf(!canRun || !canJudge)('layers that are refused', () => {
  let judges: LayerJudges;
  let images = 0;
  beforeAll(async () => {
    judges = await LayerJudges.start(join(work, 'refused'));
  });
  afterAll(() => judges.stop());

  test.each(REFUSED_CASES.map((refused) => [refused.name, refused] as const))(
    '%s',
    async (_name, refused) => {
      const { layers, code, message, containerd } = refused;
      const conversion = converter.convert(layers.map(layerOf));
      await expect(conversion).rejects.toMatchObject({ code, message: expect.stringMatching(message) });
      if (containerd === 'would fill the disk') return;
      const image = await putLayers(join(work, `refused-${++images}`), layers);
      const unpacked = judges.unpack('native', image);
      if (containerd === 'refuses')
        await expect(unpacked).rejects.toThrow(/failed to extract layer|name too long/);
      else await unpacked;
    },
  );
});

describe.skipIf(!canRun)('layers at the edge of what there may be', () => {
  /** What `find` sees, a line for each name; it enters directories one by one, so paths may have any length. */
  async function listing(root: string): Promise<string> {
    const all = '%P %y %m %U %G %T@';
    const find = `find . -mindepth 1 -type d -printf '${all}\\n' -o -printf '${all} %s %n %l\\n'`;
    const { stdout } = await run(
      'sh',
      ['-c', `${find} | sort >"$0"; wc -l <"$0"; sha256sum <"$0"`, `${work}/list`],
      {
        cwd: root,
      },
    );
    return stdout;
  }

  async function expectAsUnpacked(name: string, bytes: Buffer, names: number, program: 'tar' | 'bsdtar') {
    const root = join(work, name);
    mkdirSync(root);
    writeFileSync(`${root}.tar`, bytes);
    // In memory: on a disk, 200,000 files take tar a minute.
    await run('mount', ['-t', 'tmpfs', 'dadi-unpacked', root]);
    onTestFinished(async () => void (await run('umount', [root])));
    await run(program, ['-xpf', `${root}.tar`, '-C', root, '--numeric-owner']);
    await withMountedLayers(await converter.convert([layerOf(bytes)]), async ({ directory, deviceFile }) => {
      // It calls itself for each directory on the way.
      await run('sh', ['-c', 'ulimit -s unlimited; exec fsck.erofs "$0"', deviceFile]);
      const listed = await listing(directory);
      expect(Number.parseInt(listed, 10)).toBe(names);
      expect(listed).toBe(await listing(root));
    });
  }

  test('a directory of 200,000 entries', async () => {
    const files = Array.from({ length: 199_998 }, (_, i) => madeMember(file(`d/entry-${i}`, '')));
    const bytes = archive(dir('d'), Buffer.concat(files), symlink('d/link', 'entry-1'), dir('d/directory'));
    await expectAsUnpacked('many', bytes, 200_001, 'tar');
  });

  test.skipIf(!canJudge)('a path of 4,096 bytes', async () => {
    const path = `${'nnn/'.repeat(1023)}nnnn`;
    expect(path).toHaveLength(4096);
    // With each directory listed, so that all times are said.
    const parents = Array.from({ length: 1023 }, (_, i) => dir(path.slice(0, 4 * i + 3)));
    await expectAsUnpacked('deep', archive(...parents, file(path, 'deep')), 1024, 'bsdtar');
  });

  test('a sparse file of 20 GB', async () => {
    const pieces = [0, 5_000_000_123, 19_999_999_990];
    const path = join(work, 'sparse');
    const fd = openSync(path, 'w');
    for (const offset of pieces) writeSync(fd, Buffer.from('0123456789'), 0, 10, offset);
    closeSync(fd);
    const tar = join(work, 'sparse.tar');
    await run('tar', ['--format=pax', '--sparse', '-cf', tar, '-C', work, 'sparse']);
    await withMountedLayers(
      await converter.convert([layerOf(readFileSync(tar))]),
      async ({ directory, deviceFile }) => {
        await run('fsck.erofs', [deviceFile]);
        expect((await stat(join(directory, 'sparse'))).size).toBe(20_000_000_000);
        for (const offset of [...pieces, 2_500_000_000]) {
          const from = Math.max(0, offset - 100_000);
          expect(await bytesAt(join(directory, 'sparse'), from, 200_000)).toEqual(
            await bytesAt(path, from, 200_000),
          );
        }
      },
    );
  });

  test('a file of 4.5 GiB of zeros, with bytes at its end', async () => {
    const zeros = Buffer.alloc(64 * 1024 * 1024);
    const count = 72;
    const size = count * zeros.length + 10;
    const head = tarHeader({ path: 'large', size });
    const tail = Buffer.concat([Buffer.from('0123456789'), Buffer.alloc(502), archive(file('next', 'x'))]);
    const hash = createHash('sha256').update(head);
    for (let i = 0; i < count; i++) hash.update(zeros);
    const frame = zstdCompressSync(zeros);
    const frames = [
      zstdCompressSync(head),
      ...Array.from({ length: count }, () => frame),
      zstdCompressSync(tail),
    ];
    const layer = {
      mediaType: `${OCI_LAYER_TAR}+zstd`,
      bytes: Buffer.concat(frames),
      diffId: parseDigest(`sha256:${hash.update(tail).digest('hex')}`),
    };
    // Such a layer looks like a bomb.
    const limits = { ...DEFAULT_LIMITS, expansionRatio: 1_000_000 };
    await withMountedLayers(await converter.convert([layer], limits), async ({ directory, deviceFile }) => {
      await run('fsck.erofs', [deviceFile]);
      const large = join(directory, 'large');
      expect((await stat(large)).size).toBe(size);
      expect((await bytesAt(large, size - 20, 20)).toString('latin1')).toBe(`${'\0'.repeat(10)}0123456789`);
      expect(await bytesAt(large, 2 ** 32 - 50_000, 100_000)).toEqual(Buffer.alloc(100_000));
      expect(await readFile(join(directory, 'next'), 'latin1')).toBe('x');
    });
  });
});

/** Up to that many bytes of a file. Without blocking: the file system may be served by this very process. */
async function bytesAt(path: string, offset: number, length: number): Promise<Buffer> {
  const opened = await open(path);
  try {
    const { buffer, bytesRead } = await opened.read(Buffer.alloc(length), 0, length, offset);
    return buffer.subarray(0, bytesRead);
  } finally {
    await opened.close();
  }
}
