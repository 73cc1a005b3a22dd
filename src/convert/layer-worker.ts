/**
 * A thread that converts layers, one at a time: upstream's tar to a DADI layer (ZFile over LSMT over EROFS) in
 * a file. It reads the whole layer first, then waits for word that the layers below are converted, since directories
 * and inodes build on theirs.
 */
import { once } from 'node:events';
import { type MessagePort, parentPort } from 'node:worker_threads';
import type { ByteSource } from '../format/byte-source.ts';
import { encodeChunkTable } from '../format/chunk-table.ts';
import { BLOCK_BYTES } from '../format/erofs-layout.ts';
import { buildErofsLayer } from '../format/erofs-writer.ts';
import { FileSource } from '../format/file-source.ts';
import { LsmtLayer } from '../format/lsmt-layer.ts';
import { LsmtWriter, NO_PARENT_UUID } from '../format/lsmt-writer.ts';
import { MergedDevice } from '../format/merged-device.ts';
import { openLayerBlob, wrapHeader, wrapTrailer } from '../format/overlaybd-tar.ts';
import { ZFileWriter } from '../format/zfile-writer.ts';
import { digestBlob } from './blob-digest.ts';
import { BlockPacker } from './block-packer.ts';
import { FileSink } from './file-sink.ts';
import type { LayerMessage, LayerRequest, LayerResult, LayerTask } from './layer-protocol.ts';
import { LayerStage, TailSpool } from './layer-stage.ts';
import { readTar } from './layer-tar.ts';
import { SegmentBuilder } from './segment-builder.ts';
import { SECTORS_PER_BLOCK } from './units.ts';
import { uuidBytes, uuidText } from './uuid.ts';

async function convertLayer(task: LayerTask, port: MessagePort): Promise<LayerResult> {
  const output = new FileSink(task.outputPath);
  const tails = new TailSpool(`${task.outputPath}.tails`);
  try {
    output.write(wrapHeader(0));
    const zfile = new ZFileWriter(output, task.profile);
    const lsmt = new LsmtWriter(zfile, {
      uuid: uuidText(task.chainId),
      parentUuid: task.parentChainId === null ? NO_PARENT_UUID : uuidText(task.parentChainId),
    });

    const dataSegments = new SegmentBuilder();
    const packer = new BlockPacker(lsmt, dataSegments);
    const stage = new LayerStage(packer, tails);
    const tarSizeBytes = await readTar(task, stage, (bytes) => say(port, { type: 'progress', bytes }));
    const dataBlocks = packer.finish();
    tails.flush();

    const parentPaths = parentsFrom(port);
    say(port, { type: 'staged' });

    const metadata = new SegmentBuilder();
    const parents = (await parentPaths).map((path) => FileSource.open(path));
    try {
      const built = await buildErofsLayer(
        {
          parent: await openDevice(parents),
          entries: stage.entries,
          dataBlocks,
          readTail: (offset, target) => tails.read(offset, target),
          uuid: uuidBytes(task.chainId),
        },
        (block, bytes) => {
          const sectors = (bytes.length / BLOCK_BYTES) * SECTORS_PER_BLOCK;
          metadata.add(block * SECTORS_PER_BLOCK, sectors, lsmt.appendData(bytes));
        },
      );
      metadata.addShifted(dataSegments, built.firstBlock * SECTORS_PER_BLOCK);
      lsmt.finish({ segments: metadata.build(), virtualSize: built.totalBlocks * BLOCK_BYTES });
    } finally {
      await Promise.all(parents.map((parent) => parent.close()));
    }

    const { headerBytes, sizeBytes } = zfile.finish();
    output.write(wrapTrailer(sizeBytes));
    const wrap = wrapHeader(sizeBytes);
    output.patch(0, wrap);
    output.patch(wrap.length, headerBytes);

    const { digest, table } = digestBlob(output.fd, output.sizeBytes, task.profile.chunkSize);
    return {
      blobDigest: digest,
      blobSizeBytes: output.sizeBytes,
      chunkTable: encodeChunkTable(table),
      tarSizeBytes,
      entries: stage.entries.length,
    };
  } finally {
    tails.close();
    output.close();
  }
}

/** The device that the blobs of the layers below make, bottom first; null without any. */
async function openDevice(blobs: readonly ByteSource[]): Promise<ByteSource | null> {
  if (blobs.length === 0) return null;
  return MergedDevice.open(
    await Promise.all(blobs.map(async (blob) => LsmtLayer.open(await openLayerBlob(blob)))),
  );
}

function say(port: MessagePort, message: LayerMessage): void {
  port.postMessage(message);
}

/** The blobs below, once they are converted: while a layer is under way, no other message comes. */
async function parentsFrom(port: MessagePort): Promise<readonly string[]> {
  const [request] = (await once(port, 'message')) as [LayerRequest];
  if (request.type !== 'assemble') throw new TypeError(`told to ${request.type} in the middle of a layer`);
  return request.parentPaths;
}

async function work(task: LayerTask, port: MessagePort): Promise<void> {
  try {
    say(port, { type: 'done', result: await convertLayer(task, port) });
  } catch (error) {
    const { code, message } = error as Error & { code?: string };
    say(port, { type: 'failed', code: code ?? 'ERR_CONVERT_WORKER', message });
  }
}

const port = parentPort;
port?.on('message', (request: LayerRequest) => {
  if (request.type === 'convert') void work(request.task, port);
});
