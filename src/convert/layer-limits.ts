import type { ByteString } from '../format/byte-string.ts';
import { toDisplay } from '../format/byte-string.ts';
import { normaliseEntryPath } from '../format/layer-path.ts';
import { MAX_LAYERS } from '../format/segments.ts';
import type { TarEntry, TarHandler } from '../format/tar-reader.ts';
import { ConvertError } from './errors.ts';

/**
 * What a conversion may cost. Not a part of the profile: limits decide whether a layer is converted, never into
 * which bytes.
 */
export interface ConversionLimits {
  /** Layers of an image. */
  readonly imageLayers: number;
  /** Unpacked bytes of an image: the tars of all its layers. */
  readonly imageBytes: number;
  /** Wall time of the conversion of an image, the download of its layers included. */
  readonly imageSeconds: number;
  /** Images that an index lists. */
  readonly indexImages: number;
  /** Unpacked bytes of a layer: its tar, and its files with the holes of sparse ones. */
  readonly layerBytes: number;
  /** Entries of a layer, with the directories that have no entry of their own. */
  readonly layerEntries: number;
  /** What is kept in memory of a layer's entries while it is converted: names, link targets, xattrs, holes. */
  readonly layerMetadataBytes: number;
  /** Unpacked bytes for each compressed byte, of a layer and of an image. */
  readonly expansionRatio: number;
  /** Up to here, unpacked bytes may have any ratio: a file of zeros shrinks to a thousandth. */
  readonly expansionFreeBytes: number;
  /** Bytes of one file, with its holes. */
  readonly fileBytes: number;
  /** Names in a path. */
  readonly pathDepth: number;
  /** Names and values of one entry's xattrs. */
  readonly entryXattrBytes: number;
  /** Conversions stop while the store's file system has less left than this. */
  readonly minFreeBytes: number;
}

const GB = 1e9;

/**
 * Far beyond what is seen in real images (60 GB unpacked, layers of 30 GB, two million files), and still a bound:
 * a bomb of 10 MB unpacks to 4 GB at most.
 */
export const DEFAULT_LIMITS: ConversionLimits = {
  imageLayers: MAX_LAYERS,
  imageBytes: 500 * GB,
  imageSeconds: 2 * 60 * 60,
  indexImages: 100,
  layerBytes: 250 * GB,
  layerEntries: 3_000_000,
  layerMetadataBytes: 2 * GB,
  expansionRatio: 200,
  expansionFreeBytes: 4 * GB,
  fileBytes: 250 * GB,
  pathDepth: 1024,
  entryXattrBytes: 256 * 1024,
  minFreeBytes: GB / 2,
};

/** Measured: what an entry takes in memory until its layer is done, beside its names and xattrs. */
const ENTRY_BYTES = 600;
/** The same for each of its xattrs: a thousand short ones fit into an extended header of a few KB. */
const XATTR_BYTES = 450;
/** The same for a piece of a sparse file: an index entry while it is built. */
const PIECE_BYTES = 48;
const MAX_SHOWN_CHARACTERS = 80;

/**
 * Counts what a layer has cost so far and throws ConvertError ERR_LIMIT as soon as a limit is passed, before the
 * bytes that pass it are taken. For one layer each.
 */
export class LayerLimits {
  readonly #limits: ConversionLimits;
  /** Paths of the directories that were counted. */
  readonly #directories = new Set<ByteString>(['']);
  #lastParent: ByteString = '';
  #entries = 0;
  #metadataBytes = 0;
  #contentBytes = 0;

  constructor(limits: ConversionLimits) {
    this.#limits = limits;
  }

  /** The members of a layer go through here to `handler`: each is counted before anything of it is taken. */
  guard(handler: TarHandler): TarHandler {
    return {
      entry: (entry) => {
        this.#entry(entry);
        handler.entry(entry);
      },
      data: (bytes) => handler.data(bytes),
      hole: (lengthBytes) => {
        this.#hold(PIECE_BYTES);
        handler.hole(lengthBytes);
      },
      end: (entry) => handler.end(entry),
    };
  }

  /**
   * To be called with each piece of the tar, before it is used.
   * @param tarBytes of the tar so far, this piece included
   * @param compressedBytes of the whole layer as upstream has it: data that shrinks well may come first
   */
  unpacked(tarBytes: number, compressedBytes: number): void {
    check(this.#limits, 'layerBytes', tarBytes, 'the layer unpacks to at least', 'bytes');
    checkExpansion(this.#limits, 'the layer', tarBytes, compressedBytes);
  }

  #entry({ path: rawPath, type, size, linkTarget, xattrs }: TarEntry): void {
    const limits = this.#limits;
    const path = normaliseEntryPath(rawPath);
    const it = () => shown(path);
    check(limits, 'fileBytes', size, () => `${it()} has`, 'bytes, holes included');
    this.#contentBytes += size;
    check(
      limits,
      'layerBytes',
      this.#contentBytes,
      "the layer's files have at least",
      'bytes, holes included',
    );
    check(limits, 'pathDepth', depthOf(path), () => `the path ${it()} has`, 'names');
    let xattrBytes = 0;
    for (const [name, value] of xattrs) xattrBytes += name.length + value.length;
    check(limits, 'entryXattrBytes', xattrBytes, () => `${it()} has`, 'bytes of xattrs');
    this.#count(path.length + linkTarget.length + xattrBytes + xattrs.size * XATTR_BYTES);
    this.#countParents(path);
    if (type === 'directory') this.#directories.add(path);
  }

  /** Directories without an entry are made all the same: a path of a thousand names can cost a thousand of them. */
  #countParents(path: ByteString): void {
    let parent = parentOf(path);
    if (parent === this.#lastParent) return;
    this.#lastParent = parent;
    while (!this.#directories.has(parent)) {
      this.#directories.add(parent);
      this.#count(0);
      parent = parentOf(parent);
    }
  }

  #count(heldBytes: number): void {
    this.#entries++;
    check(this.#limits, 'layerEntries', this.#entries, 'the layer has at least', 'entries');
    this.#hold(ENTRY_BYTES + heldBytes);
  }

  #hold(bytes: number): void {
    this.#metadataBytes += bytes;
    check(
      this.#limits,
      'layerMetadataBytes',
      this.#metadataBytes,
      "the names, link targets and xattrs of the layer's entries take at least",
      'bytes of memory',
    );
  }
}

/** The same for the layers of an image together. */
export class ImageLimits {
  readonly #limits: ConversionLimits;
  #tarBytes = 0;
  #compressedBytes = 0;

  /**
   * @param layers how many the image has
   * @throws ConvertError ERR_LIMIT if there are too many
   */
  constructor(limits: ConversionLimits, layers: number) {
    this.#limits = limits;
    check(limits, 'imageLayers', layers, 'the image has', 'layers');
  }

  /** Counts a layer that was converted, now or earlier: the sizes of its tar and of the layer as upstream has it. */
  layer(tarBytes: number, compressedBytes: number): void {
    this.#tarBytes += tarBytes;
    this.#compressedBytes += compressedBytes;
    check(this.#limits, 'imageBytes', this.#tarBytes, "the image's layers unpack to at least", 'bytes');
    checkExpansion(this.#limits, 'the image', this.#tarBytes, this.#compressedBytes);
  }
}

/** The error for what a limit does not allow. */
export function limitError(limit: keyof ConversionLimits, what: string): ConvertError {
  return new ConvertError('ERR_LIMIT', `${what}; to convert it all the same, raise the limit ${limit}`);
}

/** `what` is a function where it takes time to say: nearly always nobody asks. */
export function check(
  limits: ConversionLimits,
  limit: keyof ConversionLimits,
  value: number,
  what: string | (() => string),
  unit: string,
): void {
  if (value <= limits[limit]) return;
  const subject = typeof what === 'string' ? what : what();
  throw limitError(limit, `${subject} ${value} ${unit}, ${limits[limit]} are allowed`);
}

function checkExpansion(
  { expansionFreeBytes, expansionRatio }: ConversionLimits,
  what: string,
  tarBytes: number,
  compressedBytes: number,
): void {
  if (tarBytes <= expansionFreeBytes || tarBytes <= expansionRatio * compressedBytes) return;
  throw limitError(
    'expansionRatio',
    `${what} unpacks from ${compressedBytes} bytes to at least ${tarBytes}, more than ${expansionRatio} times as many`,
  );
}

function depthOf(path: ByteString): number {
  let depth = 1;
  for (let at = path.indexOf('/'); at !== -1; at = path.indexOf('/', at + 1)) depth++;
  return depth;
}

function parentOf(path: ByteString): ByteString {
  return path.slice(0, Math.max(0, path.lastIndexOf('/')));
}

function shown(path: ByteString): string {
  const isLong = path.length > MAX_SHOWN_CHARACTERS;
  return toDisplay(isLong ? `${path.slice(0, MAX_SHOWN_CHARACTERS)}...` : path);
}
