import { createHash } from 'node:crypto';
import { globSync, readFileSync } from 'node:fs';
import { gunzipSync } from 'node:zlib';

/** A file made by the stock overlaybd tools, and what is known about it (see test/golden/README.md). */
export interface Golden {
  /** Path below test/golden, without `.gz`. */
  readonly name: string;
  readonly sidecar: Sidecar;
  bytes(): Buffer;
}

/** The parts of a sidecar that tests look at. */
export interface Sidecar {
  readonly sha256: string;
  readonly commands: readonly string[];
  readonly source_sha256?: string;
  readonly lowers_below?: readonly string[];
  readonly lowers?: readonly string[];
  readonly obd_info?: {
    readonly tar_wrapped: boolean;
    readonly tar?: { readonly inner_size: number };
    readonly zfile?: {
      readonly header: ZFileFields;
      readonly trailer: ZFileFields;
      readonly index_first: readonly number[];
      readonly index_sum: number;
      readonly index_crc_calc: string;
    };
    readonly decompressed_size?: number;
    /** `READ-ERROR` where the stock reader cannot read the stock writer's file. */
    readonly decompressed_sha256?: string;
    readonly lsmt?: {
      readonly header: LsmtFields;
      readonly trailer: LsmtFields;
      /** lba, length, data (sectors), zeroed, tag. */
      readonly index: readonly (readonly [number, number, number, number, number])[];
    };
  };
  readonly merged_device?: DeviceDigests;
  readonly merged_device_of_layers_1_to_this?: DeviceDigests;
  readonly merged_device_from_layers?: DeviceDigests;
}

interface ZFileFields {
  readonly raw96_hex: string;
  readonly flags: number;
  readonly index_offset: number;
  readonly index_size: number;
  readonly original_file_size: number;
  readonly index_crc: string;
  readonly block_size: number;
  readonly algo: number;
  readonly verify: number;
  readonly dict_size: number;
}

interface LsmtFields {
  readonly raw390_hex: string;
  readonly flags: number;
  readonly index_offset: number;
  readonly index_size: number;
  readonly virtual_size: number;
  readonly uuid: string;
  readonly parent_uuid: string;
  readonly user_tag: string;
}

/** SHA-256 of a device, and of each part of it that is not a hole. */
export interface DeviceDigests {
  readonly vsize: number;
  readonly layers: number;
  readonly chunk_bytes: number;
  /** Byte offset of the chunk and its SHA-256. */
  readonly chunks: readonly (readonly [number, string])[];
  readonly sha256: string;
  /** lba, length, data (sectors), zeroed, layer (0 = topmost). */
  readonly merged_segments: readonly (readonly [number, number, number, number, number])[];
}

const ROOT = new URL('../golden/', import.meta.url);

/** The golden files of these folders that have a sidecar. Throws if a folder has none. */
export function goldenFiles(...folders: string[]): Golden[] {
  return folders.flatMap((folder) => {
    const names = globSync(`${folder}/*.json`, { cwd: ROOT.pathname, exclude: ['**/tree-*.json'] }).sort();
    if (names.length === 0) throw new Error(`no golden files in ${folder}`);
    return names.map((name) => golden(name.replace(/\.json$/, '')));
  });
}

/** One golden file by its path below test/golden. */
export function golden(name: string): Golden {
  const sidecar = JSON.parse(readFileSync(new URL(`${name}.json`, ROOT), 'utf8')) as Sidecar;
  return { name, sidecar, bytes: () => readGolden(name, sidecar.sha256) };
}

export function sha256(bytes: Buffer): string {
  return createHash('sha256').update(bytes).digest('hex');
}

function readGolden(name: string, expected: string): Buffer {
  const [path] = globSync(`${name}{,.gz}`, { cwd: ROOT.pathname });
  if (path === undefined) throw new Error(`the golden file ${name} is missing`);
  const stored = readFileSync(new URL(path, ROOT));
  const bytes = path.endsWith('.gz') ? gunzipSync(stored) : stored;
  if (sha256(bytes) !== expected) throw new Error(`the golden file ${name} is not what its sidecar says`);
  return bytes;
}
