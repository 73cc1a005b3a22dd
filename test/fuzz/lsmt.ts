import { BufferSource } from '../../src/format/buffer-source.ts';
import { LsmtLayer } from '../../src/format/lsmt-layer.ts';
import { LsmtWriter, NO_PARENT_UUID } from '../../src/format/lsmt-writer.ts';
import { MergedDevice } from '../../src/format/merged-device.ts';
import { type SegmentRow, segmentTable } from '../support/segments.ts';
import { MemorySink } from '../support/sinks.ts';
import { mutateLsmt } from './lsmt-bytes.ts';
import { Random } from './random.ts';
import { readBounded } from './read-bounded.ts';
import { type FuzzTarget, Violation } from './target.ts';

const SECTOR = 512;
const LAYERS = 4;
const DEVICE_SECTORS = 400;

/** Header, trailer and index of LSMT files, and the merge of one that is damaged with others. */
export async function lsmtTarget(): Promise<FuzzTarget> {
  const corpus = Array.from({ length: LAYERS }, (_, number) => layerFile(new Random('lsmt', number)));
  const others = await Promise.all(corpus.map((file) => LsmtLayer.open(new BufferSource(file))));
  return {
    corpus,
    mutate: mutateLsmt,
    async run(input, random) {
      const damaged = await LsmtLayer.open(new BufferSource(input));
      const stack = [random.pick(others), damaged, random.pick(others)].slice(
        random.below(2),
        2 + random.below(2),
      );
      const device = MergedDevice.open(stack);
      await readBounded(device, random);
      await compareWithLayers(device, stack, random);
    },
  };
}

/** What the device gives for a sector is what the topmost layer that speaks of it has. */
async function compareWithLayers(
  device: MergedDevice,
  stack: readonly LsmtLayer[],
  random: Random,
): Promise<void> {
  for (let tries = 0; tries < 20; tries++) {
    const { segments } = random.pick(stack);
    const near = segments.count === 0 ? 0 : segments.lba[random.below(segments.count)]!;
    const sector = Math.max(0, near + random.below(40) - 8);
    if ((sector + 1) * SECTOR > device.size) continue;
    const seen = Buffer.alloc(SECTOR);
    await device.read(sector * SECTOR, seen);
    if (!seen.equals(await sectorOf(stack, sector)))
      throw new Violation(`sector ${sector} holds other bytes`);
  }
}

async function sectorOf(stack: readonly LsmtLayer[], sector: number): Promise<Buffer> {
  const bytes = Buffer.alloc(SECTOR);
  for (const { segments, source } of stack.toReversed()) {
    for (let i = 0; i < segments.count; i++) {
      const inside = sector - segments.lba[i]!;
      if (inside < 0 || inside >= segments.length[i]!) continue;
      if (segments.zeroed[i] === 0) await source.read((segments.data[i]! + inside) * SECTOR, bytes);
      return bytes;
    }
  }
  return bytes;
}

function layerFile(random: Random): Buffer {
  const sink = new MemorySink();
  const writer = new LsmtWriter(sink, {
    uuid: '12345678-1234-1234-1234-123456789abc',
    parentUuid: NO_PARENT_UUID,
    userTag: 'tag',
  });
  const rows: SegmentRow[] = [];
  for (let lba = random.below(9); lba < DEVICE_SECTORS; ) {
    const length = Math.min(1 + random.below(30), DEVICE_SECTORS - lba);
    const zeroed = random.oneIn(4);
    rows.push([lba, length, zeroed ? 8 : writer.appendData(random.bytes(length * SECTOR)), zeroed]);
    lba += length + (random.oneIn(2) ? 0 : random.below(30));
  }
  writer.finish({ segments: segmentTable(rows), virtualSize: DEVICE_SECTORS * SECTOR });
  return sink.bytes;
}
