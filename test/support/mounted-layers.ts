import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { attachPaths } from '../../src/client/attach/attach-paths.ts';
import { attachDevice } from '../../src/client/attach/attachment.ts';
import { FileSource } from '../../src/format/file-source.ts';
import { LsmtLayer } from '../../src/format/lsmt-layer.ts';
import { MergedDevice } from '../../src/format/merged-device.ts';
import { openLayerBlob } from '../../src/format/overlaybd-tar.ts';

export interface MountedLayers {
  /** What the kernel shows of the layers. */
  readonly directory: string;
  /** The device as a file. */
  readonly deviceFile: string;
}

/** Mounts the device that converted layers make (blobs in files, bottom first), for as long as `use` takes. */
export async function withMountedLayers<T>(
  blobPaths: readonly string[],
  use: (mounted: MountedLayers) => Promise<T>,
): Promise<T> {
  const work = mkdtempSync(join(tmpdir(), 'dadi-layers-'));
  const directory = join(work, 'root');
  mkdirSync(directory);
  const files = blobPaths.map((path) => FileSource.open(path));
  const layers = await Promise.all(files.map(async (file) => LsmtLayer.open(await openLayerBlob(file))));
  const device = MergedDevice.open(layers);
  try {
    const attachment = await attachDevice({
      device,
      workDirectory: work,
      fsType: 'erofs',
      target: directory,
    });
    try {
      return await use({ directory, deviceFile: (await attachPaths(work)).deviceFile });
    } finally {
      await attachment.detach({ lazy: false });
    }
  } finally {
    for (const file of files) await file.close();
    rmSync(work, { recursive: true });
  }
}
