/**
 * How much of an image a cold start fetches: mounts converted images with nothing cached, runs a program, and counts
 * the chunks of the layers' blobs that were touched. No clock is read, so the figures do not depend on the machine.
 * Usage: node bench/lazy.ts [oci:DIRECTORY[:TAG]...] (converted images, side by side); without one, the demo's image is
 * converted first. Needs root, FUSE and EROFS.
 */
import { execFile, spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { promisify } from 'node:util';
import { demoImage } from '../demo/image.ts';
import { formatTable } from '../src/cli/output.ts';
import { attachDevice } from '../src/client/attach/attachment.ts';
import type { ByteSource } from '../src/format/byte-source.ts';
import { DEFAULT_CHUNK_BYTES } from '../src/format/chunk-table.ts';
import { FileSource } from '../src/format/file-source.ts';
import { LsmtLayer } from '../src/format/lsmt-layer.ts';
import { MergedDevice } from '../src/format/merged-device.ts';
import { openLayerBlob } from '../src/format/overlaybd-tar.ts';
import { ImageLayout } from '../src/oci/image-layout.ts';
import { parseLayoutReference } from '../src/oci/layout-reference.ts';
import { parseManifest } from '../src/oci/manifest.ts';

const MAIN = resolve(import.meta.dirname, '../src/cli/main.ts');
const SERVICE =
  'from http.server import *; ThreadingHTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler).server_close()';

interface Workload {
  readonly name: string;
  /** A program of the image, or one of this machine that looks at the image from outside. */
  readonly inside: boolean;
  readonly command: (root: string) => readonly string[];
  readonly input?: string;
}

const WORKLOADS: readonly Workload[] = [
  { name: 'mount only', inside: false, command: () => ['true'] },
  { name: 'ls -lR', inside: false, command: (root) => ['ls', '-lR', root] },
  { name: 'find -type f', inside: false, command: (root) => ['find', root, '-type', 'f'] },
  {
    name: 'first bytes of all in /etc',
    inside: false,
    command: (root) => ['find', join(root, 'etc'), '-type', 'f', '-exec', 'head', '-c1', '{}', '+'],
  },
  { name: 'bash -c true', inside: true, command: () => ['bash', '-c', 'true'] },
  { name: 'python3 --version', inside: true, command: () => ['python3', '--version'] },
  { name: 'python3 -c pass', inside: true, command: () => ['python3', '-c', 'pass'] },
  { name: 'python3: import numpy', inside: true, command: () => ['python3', '-c', 'import numpy'] },
  { name: 'python3: http service', inside: true, command: () => ['python3', '-c', SERVICE] },
  { name: 'git --version', inside: true, command: () => ['git', '--version'] },
  {
    name: 'gcc -fsyntax-only',
    inside: true,
    command: () => ['gcc', '-fsyntax-only', '-xc', '-'],
    input: '#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\nint main(void) { return 0; }\n',
  },
  { name: 'dpkg -l', inside: true, command: () => ['dpkg', '-l'] },
];

/** Remembers which chunks of a blob were read. */
class TouchedChunks implements ByteSource {
  readonly size: number;
  readonly touched = new Set<number>();
  readonly #source: ByteSource;

  constructor(source: ByteSource) {
    this.size = source.size;
    this.#source = source;
  }

  get touchedBytes(): number {
    const isShort = this.touched.has(Math.floor(this.size / DEFAULT_CHUNK_BYTES));
    const missing = isShort ? DEFAULT_CHUNK_BYTES - (this.size % DEFAULT_CHUNK_BYTES) : 0;
    return this.touched.size * DEFAULT_CHUNK_BYTES - missing;
  }

  async read(offset: number, target: Buffer, signal?: AbortSignal): Promise<void> {
    const end = offset + target.length;
    for (let index = Math.floor(offset / DEFAULT_CHUNK_BYTES); index * DEFAULT_CHUNK_BYTES < end; index++) {
      this.touched.add(index);
    }
    await this.#source.read(offset, target, signal);
  }

  close(): Promise<void> {
    return this.#source.close();
  }
}

interface Touched {
  readonly chunks: number;
  readonly bytes: number;
}

async function layerPaths(reference: string): Promise<string[]> {
  const where = parseLayoutReference(reference);
  if (where === null) throw new Error(`${reference}: write oci:DIRECTORY[:TAG]`);
  const layout = await ImageLayout.open(where.directory);
  const { bytes, descriptor } = await layout.resolve(where.tag ?? undefined);
  const manifest = parseManifest(bytes, descriptor.mediaType);
  if (manifest.kind !== 'image') throw new Error(`${reference} is no image, but an ${manifest.kind}`);
  return manifest.layers.map(({ digest }) => layout.blobPath(digest));
}

/** Mounts layers and runs one program: each time anew, so that the kernel has nothing cached either. */
async function touchedBy(paths: readonly string[], workload: Workload): Promise<Touched> {
  const work = mkdtempSync(join(tmpdir(), 'dadi-lazy-'));
  const root = join(work, 'root');
  mkdirSync(root);
  const blobs = paths.map((path) => new TouchedChunks(FileSource.open(path)));
  try {
    const layers = await Promise.all(blobs.map(async (blob) => LsmtLayer.open(await openLayerBlob(blob))));
    const device = MergedDevice.open(layers);
    const attachment = await attachDevice({ device, workDirectory: work, fsType: 'erofs', target: root });
    try {
      await runWorkload(workload, root);
    } finally {
      await attachment.detach({ lazy: false });
    }
  } finally {
    for (const blob of blobs) await blob.close();
    rmSync(work, { recursive: true, force: true });
  }
  return {
    chunks: blobs.reduce((sum, { touched }) => sum + touched.size, 0),
    bytes: blobs.reduce((sum, { touchedBytes }) => sum + touchedBytes, 0),
  };
}

/** Not synchronously: this process is the device that the program reads. */
async function runWorkload({ name, inside, command, input }: Workload, root: string): Promise<void> {
  const environment = { PATH: '/usr/sbin:/usr/bin:/sbin:/bin', LC_ALL: 'C.UTF-8' };
  // The image is mounted without devices, and git wants /dev/null.
  const chroot = [
    'unshare',
    '--mount',
    'sh',
    '-c',
    'mount --bind /dev "$0/dev" && exec chroot "$0" "$@"',
    root,
  ];
  const [program = '', ...args] = [...(inside ? chroot : []), ...command(root)];
  const running = promisify(execFile)(program, args, { env: environment, maxBuffer: 2 ** 28 });
  if (input !== undefined) running.child.stdin?.write(input);
  running.child.stdin?.end();
  await running.catch((cause) => {
    throw new Error(`${name} failed`, { cause });
  });
}

async function convertedDemo(work: string): Promise<string> {
  const { layout } = await demoImage({ signal: new AbortController().signal, report: console.error });
  const target = `oci:${join(work, 'converted')}`;
  const { status } = spawnSync(process.execPath, [MAIN, 'convert', `oci:${layout}:latest`, target], {
    stdio: ['ignore', 'ignore', 'inherit'],
  });
  if (status !== 0) throw new Error('the demo image could not be converted');
  return target;
}

const work = mkdtempSync(join(tmpdir(), 'dadi-bench-'));
try {
  const given = process.argv.slice(2);
  const images = given.length > 0 ? given : [await convertedDemo(work)];
  const layers = await Promise.all(images.map(layerPaths));
  const rows: string[][] = [];
  for (const workload of WORKLOADS) {
    const row = [workload.name];
    for (const paths of layers) {
      const { chunks, bytes } = await touchedBy(paths, workload);
      row.push(String(chunks), (bytes / 1e6).toFixed(1));
    }
    rows.push(row);
  }
  for (const [index, image] of images.entries()) console.log(`${index + 1}: ${image}`);
  const columns = images.flatMap((_, index) => [`${index + 1}: CHUNKS`, 'MB']);
  console.log(formatTable(['COLD, MOUNT INCLUDED', ...columns], rows));
} finally {
  rmSync(work, { recursive: true, force: true });
}
