import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { requireCapability } from './capabilities.ts';
import { buildImage, type LayoutImage, pullImage, pushImage, unpackWithUmoci } from './images.ts';
import { oddImageLayers, writeOddImage } from './odd-image.ts';
import { run } from './processes.ts';
import { startRegistry } from './registry.ts';
import { collectTar } from './tar-events.ts';
import { diffTrees, readTree, type TreeEntry } from './tree.ts';

let scratch: string;
let layers: string[];
beforeAll(() => {
  scratch = mkdtempSync(join(tmpdir(), 'dadi-images-'));
  layers = writeOddImage(scratch);
});
afterAll(() => rmSync(scratch, { recursive: true, force: true }));

describe('the odd image', () => {
  it('holds what was asked for, as our own reader sees it', () => {
    for (const [i, inputs] of oddImageLayers().entries()) {
      const entries = collectTar(readFileSync(layers[i]!));
      expect(entries).toHaveLength(inputs.length);
      for (const [j, input] of inputs.entries()) {
        const { entry, content } = entries[j]!;
        expect(entry.path.replace(/\/$/, '')).toBe(input.path.replace(/\/$/, ''));
        expect(content.equals(input.content ?? Buffer.alloc(0))).toBe(true);
        expect(entry).toMatchObject({
          type: input.type ?? 'file',
          uid: input.uid ?? 0,
          gid: input.gid ?? 0,
          linkTarget: input.linkTarget ?? '',
          deviceMajor: input.deviceMajor ?? 0,
          deviceMinor: input.deviceMinor ?? 0,
          xattrs: new Map(Object.entries(input.xattrs ?? {})),
        });
        if (input.mode !== undefined) expect(entry.mode).toBe(input.mode);
        if (input.mtimeNs !== undefined) {
          expect(BigInt(entry.mtimeSeconds) * 1_000_000_000n + BigInt(entry.mtimeNanoseconds)).toBe(
            input.mtimeNs,
          );
        }
      }
    }
  });

  it('is the same for the same seed only', () => {
    expect(oddImageLayers(5)).toEqual(oddImageLayers(5));
    expect(oddImageLayers(5)).not.toEqual(oddImageLayers(6));
  });

  it('is understood by GNU tar', async () => {
    for (const layer of layers) await run('tar', ['--list', '--verbose', '--file', layer]);
  });
});

describe.skipIf(!requireCapability('root', 'umoci'))('buildImage and unpackWithUmoci', () => {
  let image: LayoutImage;
  let tree: TreeEntry[];
  beforeAll(async () => {
    image = await buildImage(scratch, 'odd', layers);
    tree = await readTree(await unpackWithUmoci(image, join(scratch, 'bundle')));
  });
  const entryOf = (path: string) => tree.find((entry) => entry.path === path);

  it('apply whiteouts and opaque directories', () => {
    for (const path of [
      'etc/removed',
      'gone/deep',
      'hidden/below',
      'hidden/dir',
      'hidden/new',
      'links/first',
    ]) {
      expect(entryOf(path), path).toBeUndefined();
    }
    for (const path of ['gone/again', 'hidden/both', 'usr/lib/through-the-link', 'odd/zero-device']) {
      expect(entryOf(path), path).toBeDefined();
    }
    expect(tree.some(({ path }) => path.includes('.wh.'))).toBe(false);
    expect(tree.filter(({ path }) => path.startsWith('many/'))).toHaveLength(400);
  });

  it('keep hard links, also across layers', () => {
    for (const path of ['links/third', 'links/fourth', 'links/fifth']) {
      expect(entryOf(path)).toMatchObject({ linkedTo: 'links/fifth', links: 3 });
    }
    expect(entryOf('links/second')).toMatchObject({ links: 1, size: 20 });
    expect(entryOf('links/of-the-middle')).toMatchObject({ linkedTo: 'etc/kept' });
  });

  it('keep names, owners, times, devices and xattrs', () => {
    expect(entryOf('odd/caf\xe9')).toBeDefined();
    expect(entryOf('odd/setuid')).toMatchObject({ mode: 0o4755, uid: 3_000_000, gid: 4_294_967_290 });
    expect(entryOf('odd/nanoseconds')).toMatchObject({ mtimeNs: 1_700_000_000_123_456_789n });
    expect(entryOf('odd/disk')).toMatchObject({ type: 'block', device: '259:70000' });
    expect(entryOf('odd/xattrs')!.xattrs).toMatchObject({ 'user.binary': '\0\xff\n=' });
  });

  it('build several images in one layout', async () => {
    const lowest = await buildImage(scratch, 'lowest', layers.slice(0, 1));
    expect(lowest.layout).toBe(image.layout);
    expect(await readTree(await unpackWithUmoci(lowest, join(scratch, 'lowest')))).not.toEqual(tree);
  });

  describe.skipIf(!requireCapability('registry', 'skopeo', 'htpasswd', 'openssl'))('with a registry', () => {
    it.each([
      { auth: 'none', tls: false },
      { auth: 'none', tls: true },
      { auth: 'basic', tls: false },
      { auth: 'token', tls: false },
      { auth: 'token', tls: true },
    ] as const)('push and pull (auth $auth, TLS $tls)', async ({ auth, tls }) => {
      const name = `${auth}-${tls}`;
      const registry = await startRegistry({ dir: join(scratch, `registry-${name}`), auth, tls });
      try {
        await pushImage(image, registry, 'lib/odd:1');
        const pulled = await pullImage(registry, 'lib/odd:1', join(scratch, `pulled-${name}`));
        const root = await unpackWithUmoci(pulled, join(scratch, `bundle-${name}`));
        expect(diffTrees(tree, await readTree(root))).toEqual([]);
        if (auth === 'none') return;
        const stranger = { ...registry, credentials: null };
        await expect(pullImage(stranger, 'lib/odd:1', join(scratch, `stranger-${name}`))).rejects.toThrow(
          /unauthorized|authentication required/,
        );
      } finally {
        await registry.stop();
      }
    });
  });
});
