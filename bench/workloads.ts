/** What the benchmark converts: the demo's image, and one-layer images made of its files. */
import {
  createReadStream,
  createWriteStream,
  existsSync,
  mkdirSync,
  readFileSync,
  renameSync,
  rmSync,
} from 'node:fs';
import { join, resolve } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { createGzip } from 'node:zlib';
import { type Pack, pack } from 'tar-stream';
import { demoImage } from '../demo/image.ts';
import { decoderOf } from '../src/format/decoder-of.ts';
import { type TarEntry, TarReader } from '../src/format/tar-reader.ts';
import { Digester } from '../src/oci/digest.ts';
import { ImageLayout } from '../src/oci/image-layout.ts';
import { parseManifest } from '../src/oci/manifest.ts';
import { putOneLayerImage } from '../test/support/one-layer-image.ts';

export interface Workload {
  readonly name: string;
  /** OCI image layout; the image has the tag `latest`. */
  readonly layout: string;
}

const CACHE = resolve(import.meta.dirname, '../.cache/bench');
const SMALL_FILE_BYTES = 16 * 1024;
const LARGE_FILE_BYTES = 1024 * 1024;
const LAYER_BYTES = 256 * 1024 * 1024;

/** Makes what is not there yet. */
export async function workloads(report: (line: string) => void): Promise<Workload[]> {
  const demo = await demoImage({ signal: new AbortController().signal, report });
  return [
    { name: 'whole image', layout: demo.layout },
    await oneLayer('many small files', demo.layout, (size) => size > 0 && size <= SMALL_FILE_BYTES, report),
    await oneLayer('few large files', demo.layout, (size) => size >= LARGE_FILE_BYTES, report),
    await oneLayer(
      'few large files, not compressed',
      demo.layout,
      (size) => size >= LARGE_FILE_BYTES,
      report,
      {
        isCompressed: false,
      },
    ),
  ];
}

/** A layer of the demo image's files of some size, again and again under other names until it is large. */
async function oneLayer(
  name: string,
  from: string,
  isWanted: (sizeBytes: number) => boolean,
  report: (line: string) => void,
  { isCompressed } = { isCompressed: true },
): Promise<Workload> {
  const layout = join(CACHE, name.replaceAll(/\W+/g, '-'));
  if (existsSync(layout)) return { name, layout };
  report(`making an image of ${name}`);
  const files = await filesOf(from, isWanted);
  const work = `${layout}.making`;
  rmSync(work, { recursive: true, force: true });
  mkdirSync(work, { recursive: true });
  const tarPath = join(work, 'layer.tar');
  const archive = pack();
  const written = pipeline(archive, createWriteStream(tarPath));
  for (let bytes = 0, round = 0; bytes < LAYER_BYTES; round++) {
    for (const [path, content] of files) {
      await addFile(archive, `${round}/${path}`, content);
      bytes += content.length;
    }
  }
  archive.finalize();
  await written;
  const digester = new Digester();
  for await (const piece of createReadStream(tarPath)) digester.update(piece);
  const layerPath = isCompressed ? `${tarPath}.gz` : tarPath;
  if (isCompressed) await pipeline(createReadStream(tarPath), createGzip(), createWriteStream(layerPath));
  // The media type says gzip in any case; the bytes decide.
  await putOneLayerImage(join(work, 'layout'), layerPath, digester.digest());
  renameSync(join(work, 'layout'), layout);
  rmSync(work, { recursive: true });
  return { name, layout };
}

function addFile(archive: Pack, name: string, content: Buffer): Promise<void> {
  return new Promise((done, fail) => {
    archive.entry({ name, mtime: new Date(0) }, content, (error) => (error ? fail(error) : done()));
  });
}

async function filesOf(
  layoutPath: string,
  isWanted: (sizeBytes: number) => boolean,
): Promise<Map<string, Buffer>> {
  const files = new Map<string, Buffer>();
  let pieces: Buffer[] = [];
  let left = LAYER_BYTES;
  const handler = {
    entry: () => {
      pieces = [];
    },
    data: (bytes: Buffer) => void pieces.push(Buffer.from(bytes)),
    hole: () => {},
    end: ({ path, type, size }: TarEntry) => {
      if (type !== 'file' || !isWanted(size) || size > left) return;
      left -= size;
      files.set(Buffer.from(path, 'latin1').toString(), Buffer.concat(pieces));
    },
  };
  for (const path of await layerPaths(layoutPath)) {
    const reader = new TarReader(handler);
    const bytes = readFileSync(path);
    const decoder = decoderOf(bytes);
    decoder.write(bytes, (piece) => reader.write(piece));
    decoder.close();
  }
  return files;
}

/** The files of an image's layers, bottom first. */
export async function layerPaths(layoutPath: string): Promise<string[]> {
  const layout = await ImageLayout.open(layoutPath);
  const { bytes, descriptor } = await layout.resolve('latest');
  const manifest = parseManifest(bytes, descriptor.mediaType);
  if (manifest.kind !== 'image') throw new Error(`${layoutPath} holds no image, but an ${manifest.kind}`);
  return manifest.layers.map(({ digest }) => layout.blobPath(digest));
}
