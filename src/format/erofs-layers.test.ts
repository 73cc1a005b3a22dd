import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { LayerDraft } from '../../test/support/erofs-device.ts';
import { LayerModel } from '../../test/support/layer-model.ts';
import { ODDITIES, odditiesOf } from '../../test/support/layer-oddities.ts';
import { buildStack, stackOfLayers } from '../../test/support/random-layers.ts';
import { snapshotByReader } from '../../test/support/tree-snapshot.ts';
import { ErofsReader } from './erofs-reader.ts';

describe('a stack of layers', () => {
  it('shows the same tree as the image specification asks for, whatever the layers do', async () => {
    let applied = 0;
    let refused = 0;
    const seen = new Map(ODDITIES.map((oddity) => [oddity, 0]));
    await fc.assert(
      fc.asyncProperty(stackOfLayers(), async (stack) => {
        let lower = new LayerModel().snapshot();
        for await (const { draft, below, model, built } of buildStack(stack)) {
          if (built === null) {
            refused++;
            await expect(draft.on(below)).rejects.toMatchObject({ code: 'ERR_LAYER_CONFLICT' });
            continue;
          }
          applied++;
          for (const oddity of odditiesOf(draft.entries, lower))
            seen.set(oddity, (seen.get(oddity) ?? 0) + 1);
          lower = model.snapshot();
          expect(await snapshotByReader(built.device)).toEqual(model.snapshot());
          const { superblock } = await ErofsReader.open(built.device);
          expect(superblock).toMatchObject({ inodes: model.inodes(), blocks: built.totalBlocks });
        }
      }),
      { numRuns: 500, seed: 20_260_801 },
    );
    expect(applied).toBeGreaterThan(refused);
    // What the random layers do not bring would not be tested here.
    expect([...seen].filter(([, layers]) => layers < 5)).toEqual([]);
  });

  it('is the same file system however often it is built', async () => {
    await fc.assert(
      fc.asyncProperty(stackOfLayers(), async (stack) => {
        for await (const { draft, below, built } of buildStack(stack)) {
          if (built === null) continue;
          expect((await draft.on(below)).device.blocks).toEqual(built.device.blocks);
          expect(built.emitted).toEqual([...new Set(built.emitted)].sort((a, b) => a - b));
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
