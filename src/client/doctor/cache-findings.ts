import { constants } from 'node:fs';
import { access, mkdtemp, open, rm, statfs } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { punchHole } from '../../format/fallocate.ts';
import { type Finding, good, limited, missing } from './finding.ts';

/** statfs(2) */
const FILE_SYSTEMS: ReadonlyMap<number, string> = new Map([
  [0xef53, 'ext4'],
  [0x58465342, 'XFS'],
  [0x9123683e, 'Btrfs'],
  [0x01021994, 'tmpfs'],
  [0x794c7630, 'overlayfs'],
  [0x2fc12fc1, 'ZFS'],
  [0x6969, 'NFS'],
  [0x65735546, 'FUSE'],
]);
const TRIAL_BYTES = 1024 * 1024;
const BLOCK_BYTES = 4096;

/** What the file system does that a directory is on, or will be. */
interface Place {
  readonly fileSystem: string;
  readonly freeBytes: number;
}

/** How the cache's directory does, and the one for snapshots. */
export async function cacheFindings(options: {
  readonly cacheDirectory: string;
  readonly minFreeBytes: number;
  readonly stateDirectory: string;
}): Promise<Finding[]> {
  return [await cache(options.cacheDirectory, options.minFreeBytes), await snapshots(options.stateDirectory)];
}

async function cache(directory: string, minFreeBytes: number): Promise<Finding> {
  const name = 'cache';
  const existing = await nearest(directory);
  const { fileSystem, freeBytes } = await placeOf(existing);
  const found = `${directory} on ${fileSystem}, ${Math.round(freeBytes / 1e6)} MB free`;
  const trial = await tryFiles(existing).catch((error: unknown) => String(error));
  if (trial !== null) {
    return limited(
      name,
      `${found}: ${trial}`,
      'the cache takes more space than what is in it, or cannot be used: then every read asks a proxy',
      'cache.directory on a local ext4 or XFS',
    );
  }
  if (freeBytes < minFreeBytes) {
    return limited(
      name,
      found,
      `the cache leaves others ${Math.round(minFreeBytes / 1e6)} MB (cache.minFreeBytes): it keeps nothing`,
      'more space, or another cache.directory',
    );
  }
  if (fileSystem === 'tmpfs') {
    return limited(
      name,
      found,
      'what is cached takes memory, and is gone after a reboot',
      'cache.directory on a disk',
    );
  }
  return good(name, found, 'it can keep single chunks of large files, and drop them');
}

/** overlayfs cannot write to itself. */
async function snapshots(directory: string): Promise<Finding> {
  const { fileSystem } = await placeOf(await nearest(directory));
  const found = `${directory} on ${fileSystem}`;
  if (fileSystem === 'overlayfs' || fileSystem === 'NFS') {
    return missing(
      'snapshots',
      found,
      "containers' own files cannot be kept there: overlayfs refuses such a file system",
      'stateDirectory on ext4 or XFS (in a container: a volume)',
    );
  }
  return good('snapshots', found, "containers' own files can be kept there");
}

async function nearest(directory: string): Promise<string> {
  for (let at = directory; at !== dirname(at); at = dirname(at)) {
    if (
      await access(at).then(
        () => true,
        () => false,
      )
    )
      return at;
  }
  return '/';
}

async function placeOf(directory: string): Promise<Place> {
  const { type, bavail, bsize } = await statfs(directory);
  const fileSystem = FILE_SYSTEMS.get(type >>> 0) ?? `a file system of type 0x${(type >>> 0).toString(16)}`;
  return { fileSystem, freeBytes: bavail * bsize };
}

/** Null if sparse files and holes work there. */
async function tryFiles(directory: string): Promise<string | null> {
  await access(directory, constants.W_OK);
  const trial = await mkdtemp(join(directory, '.dadi-doctor-'));
  try {
    const file = await open(join(trial, 'sparse'), 'w', 0o600);
    try {
      await file.truncate(TRIAL_BYTES);
      await file.write(Buffer.alloc(BLOCK_BYTES, 1), 0, BLOCK_BYTES, TRIAL_BYTES / 2);
      await file.sync();
      if ((await file.stat()).blocks * 512 >= TRIAL_BYTES) return 'files there have no holes';
      return await punchHole(file.fd, TRIAL_BYTES / 2, BLOCK_BYTES).then(
        () => null,
        () => 'no holes can be made in files there',
      );
    } finally {
      await file.close();
    }
  } finally {
    await rm(trial, { recursive: true });
  }
}
