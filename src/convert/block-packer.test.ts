import fc from 'fast-check';
import { expect, test } from 'vitest';
import { BlockPacker } from './block-packer.ts';
import { SegmentBuilder } from './segment-builder.ts';

const BLOCK = 4096;

/** Takes what a layer would hold, and gives back what a reader would find on the device. */
class Recorder {
  readonly segments = new SegmentBuilder();
  #pieces: Buffer[] = [];
  #sectors = 8;

  appendData(bytes: Buffer): number {
    const at = this.#sectors;
    this.#pieces.push(Buffer.from(bytes));
    this.#sectors += bytes.length / 512;
    return at;
  }

  get dataBytes(): number {
    return (this.#sectors - 8) * 512;
  }

  read(blocks: number): Buffer {
    const data = Buffer.concat(this.#pieces);
    const device = Buffer.alloc(blocks * BLOCK);
    const table = this.segments.build();
    for (let i = 0; i < table.count; i++) {
      const from = (table.data[i]! - 8) * 512;
      data.copy(device, table.lba[i]! * 512, from, from + table.length[i]! * 512);
    }
    return device;
  }
}

const piece = fc.oneof(
  fc.record({
    kind: fc.constant('bytes' as const),
    length: fc.integer({ min: 0, max: 30_000 }),
    fill: fc.nat(255),
  }),
  fc.record({
    kind: fc.constant('hole' as const),
    length: fc.integer({ min: 0, max: 3_000_000 }),
    fill: fc.constant(0),
  }),
);

test('every file is found again at its first block, whatever pieces and holes it came in', () => {
  fc.assert(
    fc.property(
      fc.array(fc.tuple(fc.array(piece, { maxLength: 6 }), fc.boolean()), { maxLength: 8 }),
      (files) => {
        const recorder = new Recorder();
        const packer = new BlockPacker(recorder, recorder.segments);
        const expected: { firstBlock: number; content: Buffer; tail: Buffer | null }[] = [];
        for (const [pieces, inline] of files) {
          const firstBlock = packer.nextBlock;
          const content = Buffer.concat(pieces.map(({ length, fill }) => Buffer.alloc(length, fill)));
          for (const { kind, length, fill } of pieces) {
            if (kind === 'hole') packer.writeZeros(length);
            else packer.write(Buffer.alloc(length, fill));
          }
          const tail = packer.endFile(inline);
          expected.push({ firstBlock, content, tail: tail === null ? null : Buffer.from(tail) });
        }
        const device = recorder.read(packer.finish());
        for (const { firstBlock, content, tail } of expected) {
          const onDevice = content.length - (tail?.length ?? 0);
          const start = firstBlock * BLOCK;
          expect(device.subarray(start, start + onDevice).equals(content.subarray(0, onDevice))).toBe(true);
          if (tail !== null) expect(tail.equals(content.subarray(onDevice))).toBe(true);
        }
      },
    ),
    { seed: 1, numRuns: 100 },
  );
});

test('long runs of zeros take no room in the layer, short ones do not break a run of data', () => {
  const recorder = new Recorder();
  const packer = new BlockPacker(recorder, recorder.segments);
  packer.write(Buffer.alloc(BLOCK, 1));
  packer.write(Buffer.alloc(7 * BLOCK));
  packer.write(Buffer.alloc(BLOCK, 2));
  packer.write(Buffer.alloc(100 * BLOCK));
  packer.write(Buffer.alloc(BLOCK, 3));
  packer.endFile(false);
  expect(packer.finish()).toBe(110);
  expect(recorder.dataBytes).toBe(10 * BLOCK);
  expect(recorder.segments.build().count).toBe(2);
});
