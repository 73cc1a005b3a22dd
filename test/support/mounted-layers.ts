import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { attach, attachPaths } from '../../src/client/attach/attach.ts';
import { detach } from '../../src/client/attach/detach.ts';
import { NbdServer } from '../../src/client/nbd/nbd-server.ts';
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
  const socketPath = join(work, 'nbd.sock');
  const server = await NbdServer.listen({ device, socketPath });
  try {
    await attach({
      socketPath,
      workDirectory: work,
      sizeBytes: device.size,
      fsType: 'erofs',
      target: directory,
    });
    return await use({ directory, deviceFile: attachPaths(work).deviceFile });
  } finally {
    await detach(work, { lazy: false });
    await server.close();
    for (const file of files) await file.close();
    rmSync(work, { recursive: true });
  }
}
