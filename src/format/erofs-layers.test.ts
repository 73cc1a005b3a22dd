import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type BlockDevice, LayerDraft } from '../../test/support/erofs-device.ts';
import { LayerModel, ModelConflict } from '../../test/support/layer-model.ts';
import { draftOf, stackOfLayers } from '../../test/support/random-layers.ts';
import { snapshotByReader } from '../../test/support/tree-snapshot.ts';
import { ErofsReader } from './erofs-reader.ts';

describe('a stack of layers', () => {
  it('shows the same tree as the image specification asks for, whatever the layers do', async () => {
    let applied = 0;
    let refused = 0;
    await fc.assert(
      fc.asyncProperty(stackOfLayers(), async (stack) => {
        const model = new LayerModel();
        let device: BlockDevice | null = null;
        for (const operations of stack) {
          const { draft, contentOf } = draftOf(operations, model);
          let conflict: unknown = null;
          try {
            model.apply(draft.entries, contentOf);
          } catch (error) {
            if (!(error instanceof ModelConflict)) throw error;
            conflict = error;
          }
          if (conflict !== null) {
            refused++;
            await expect(draft.on(device)).rejects.toMatchObject({ code: 'ERR_LAYER_CONFLICT' });
            continue;
          }
          applied++;
          const layer = await draft.on(device);
          device = layer.device;
          expect(await snapshotByReader(device)).toEqual(model.snapshot());
          const { superblock } = await ErofsReader.open(device);
          expect(superblock).toMatchObject({ inodes: model.inodes(), blocks: layer.totalBlocks });
        }
      }),
      { numRuns: 300, seed: 20_260_801 },
    );
    expect(applied).toBeGreaterThan(refused);
  });

  it('is the same file system however often it is built', async () => {
    await fc.assert(
      fc.asyncProperty(stackOfLayers(), async (stack) => {
        const model = new LayerModel();
        let device: BlockDevice | null = null;
        for (const operations of stack) {
          const { draft, contentOf } = draftOf(operations, model);
          try {
            model.apply(draft.entries, contentOf);
          } catch {
            continue;
          }
          const layer = await draft.on(device);
          expect((await draft.on(device)).device.blocks).toEqual(layer.device.blocks);
          expect(layer.emitted).toEqual([...new Set(layer.emitted)].sort((a, b) => a - b));
          device = layer.device;
        }
      }),
      { numRuns: 40, seed: 3 },
    );
  });

  it('can have layers that change nothing', async () => {
    const first = await new LayerDraft().file('a', 'A').on(null);
    const second = await new LayerDraft().on(first.device);
    expect(second.emitted).toEqual([0]);
    expect(second.totalBlocks).toBe(first.totalBlocks);
    expect(await snapshotByReader(second.device)).toEqual(await snapshotByReader(first.device));
  });
});
