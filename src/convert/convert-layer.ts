import type { ByteSource } from '../format/byte-source.ts';
import { encodeChunkTable } from '../format/chunk-table.ts';
import { BLOCK_BYTES } from '../format/erofs-layout.ts';
import { buildErofsLayer } from '../format/erofs-writer.ts';
import { LsmtWriter, NO_PARENT_UUID } from '../format/lsmt-writer.ts';
import { wrapHeader, wrapTrailer } from '../format/overlaybd-tar.ts';
import { ZFileWriter } from '../format/zfile-writer.ts';
import type { Bell } from './bell.ts';
import { BlobFile } from './blob-file.ts';
import { BlockPacker } from './block-packer.ts';
import type { LayerResult, LayerTask } from './layer-protocol.ts';
import { LayerStage, TailSpool } from './layer-stage.ts';
import { readTar } from './layer-tar.ts';
import { SegmentBuilder } from './segment-builder.ts';
import type { SharedWork } from './shared-work.ts';
import { SECTORS_PER_BLOCK } from './units.ts';
import { uuidBytes, uuidText } from './uuid.ts';

const PROGRESS_INTERVAL_MS = 50;

export interface LayerHelp {
  /** Work that other threads may do for this one, and what calls them. */
  readonly work: SharedWork;
  readonly bell: Bell;
  /** Told from time to time how many of the layer's compressed bytes are consumed. */
  readonly onProgress: (compressedBytes: number) => void;
  /** Called when all of the layer is read: the device of the layers below, null if there are none. */
  readonly parent: () => Promise<ByteSource | null>;
}

/**
 * Converts a layer: upstream's tar to a DADI layer (ZFile over LSMT over EROFS) in a file. It reads all of the layer
 * first, blocking its thread, and only then asks for the layers below, since directories and inodes build on theirs.
 */
export async function convertLayer(task: LayerTask, help: LayerHelp): Promise<LayerResult> {
  const { work, bell } = help;
  const { profile } = task;
  const output = new BlobFile(task.outputPath, profile.chunkSize, (take) => work.chunks(bell, take));
  const tails = new TailSpool(`${task.outputPath}.tails`);
  try {
    output.write(wrapHeader(0));
    const zfile = new ZFileWriter(output, profile, (blocks, take) => work.compressor(bell, blocks, take));
    const lsmt = new LsmtWriter(zfile, {
      uuid: uuidText(task.chainId),
      parentUuid: task.parentChainId === null ? NO_PARENT_UUID : uuidText(task.parentChainId),
    });

    const dataSegments = new SegmentBuilder();
    const packer = new BlockPacker(lsmt, dataSegments);
    const stage = new LayerStage(packer, tails);
    const tarSizeBytes = readTar(task, stage, {
      hash: (what, algorithm) => work.hash(what, algorithm, bell),
      onPiece: progressOf(help),
    });
    const dataBlocks = packer.finish();
    tails.flush();

    const metadata = new SegmentBuilder();
    const built = await buildErofsLayer(
      {
        parent: await help.parent(),
        entries: stage.entries,
        dataBlocks,
        readTail: (offset, target) => tails.read(offset, target),
        uuid: uuidBytes(task.chainId),
      },
      (block, bytes) => {
        throwIfAborted(work);
        const sectors = (bytes.length / BLOCK_BYTES) * SECTORS_PER_BLOCK;
        metadata.add(block * SECTORS_PER_BLOCK, sectors, lsmt.appendData(bytes));
      },
    );
    metadata.addShifted(dataSegments, built.firstBlock * SECTORS_PER_BLOCK);
    lsmt.finish({ segments: metadata.build(), virtualSize: built.totalBlocks * BLOCK_BYTES });

    const { headerBytes, sizeBytes } = zfile.finish();
    output.write(wrapTrailer(sizeBytes));
    const { digest, table } = output.finish(Buffer.concat([wrapHeader(sizeBytes), headerBytes]));
    return {
      blobDigest: digest,
      blobSizeBytes: table.blobSize,
      chunkTable: encodeChunkTable(table),
      tarSizeBytes,
      entries: stage.entries.length,
    };
  } finally {
    tails.close();
    output.close();
  }
}

function progressOf({ work, onProgress }: LayerHelp): (compressedBytes: number) => void {
  let reportedMs = performance.now();
  return (compressedBytes) => {
    throwIfAborted(work);
    const nowMs = performance.now();
    if (nowMs - reportedMs < PROGRESS_INTERVAL_MS) return;
    reportedMs = nowMs;
    onProgress(compressedBytes);
  };
}

function throwIfAborted(work: SharedWork): void {
  if (work.isAborted) throw new Error('the layer was given up');
}
