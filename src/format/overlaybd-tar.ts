import type { BlockMemory } from './block-memory.ts';
import type { ByteSource } from './byte-source.ts';
import { FormatError } from './errors.ts';
import { hasLsmtMagic } from './lsmt-header.ts';
import { SliceSource } from './slice-source.ts';
import { hasZFileMagic } from './zfile-header.ts';
import { ZFileReader } from './zfile-reader.ts';

/*
 * In registries a layer is wrapped as a tar archive of one member, so that it can pass for an ordinary layer:
 * a pax header with the size, the member's header (with size 0: its readers know better), the ZFile, the end.
 */
const BLOCK = 512;
const WRAP_HEADER_BYTES = 3 * BLOCK;
const END_OF_ARCHIVE_BYTES = 2 * BLOCK;
const FIELD = {
  name: [0, 100],
  mode: [100, 8],
  uid: [108, 8],
  gid: [116, 8],
  size: [124, 12],
  mtime: [136, 12],
  checksum: [148, 8],
  type: [156, 1],
  magic: [257, 8],
  userName: [265, 32],
  groupName: [297, 32],
} as const satisfies Record<string, readonly [at: number, length: number]>;
const USTAR = 'ustar\x0000';
const MAGIC_BYTES = 24;

/** The 1,536 bytes before a ZFile (or LSMT file) of that size. */
export function wrapHeader(zfileSize: number): Buffer {
  const record = paxRecord('size', String(zfileSize));
  const body = Buffer.alloc(BLOCK);
  body.write(record, 'latin1');
  const pax = { name: 'overlaybd.pax', size: octal(record.length, 11), type: 'x', magic: USTAR };
  const member = {
    name: 'overlaybd.commit',
    mode: '100644 ',
    uid: octal(0, 6),
    gid: octal(0, 6),
    size: octal(0, 11),
    mtime: octal(0, 11),
    type: '0',
    magic: USTAR,
    userName: 'root',
    groupName: 'root',
  };
  return Buffer.concat([encodeTarHeader(pax), body, encodeTarHeader(member)]);
}

/** The bytes behind a ZFile (or LSMT file) of that size: padding and the end of the archive. */
export function wrapTrailer(zfileSize: number): Buffer {
  return Buffer.alloc(((BLOCK - (zfileSize % BLOCK)) % BLOCK) + END_OF_ARCHIVE_BYTES);
}

/**
 * Opens a layer blob as it comes from a registry, wrapped or not, compressed or not: the result is the LSMT file
 * in it. Closing that leaves `source` open. `memory` keeps decompressed blocks, for who reads little at a time.
 *
 * @throws FormatError ERR_UNSUPPORTED if it is something else, ERR_TAR_CORRUPT, ERR_ZFILE_CORRUPT; SourceError
 */
export async function openLayerBlob(
  source: ByteSource,
  signal?: AbortSignal,
  memory?: BlockMemory,
): Promise<ByteSource> {
  const inner = await unwrap(source, signal);
  const magic = Buffer.alloc(Math.min(MAGIC_BYTES, inner.size));
  await inner.read(0, magic, signal);
  if (hasZFileMagic(magic)) return ZFileReader.open(inner, signal, memory);
  if (hasLsmtMagic(magic)) return inner;
  throw new FormatError(
    'ERR_UNSUPPORTED',
    'this blob is no overlaybd layer: it holds neither a ZFile nor LSMT',
  );
}

/** Detects the wrapping as stock overlaybd does: data at 1536 behind a pax header, else at 512. */
async function unwrap(source: ByteSource, signal: AbortSignal | undefined): Promise<ByteSource> {
  const bytes = Buffer.alloc(Math.min(WRAP_HEADER_BYTES, source.size));
  await source.read(0, bytes, signal);
  if (!isTarHeader(bytes.subarray(0, BLOCK))) return source;
  if (text(bytes, 'type') !== 'x') return slice(source, BLOCK, parseOctal(text(bytes, 'size')));
  if (!isTarHeader(bytes.subarray(2 * BLOCK))) {
    throw new FormatError('ERR_TAR_CORRUPT', 'layer archive: no header follows its pax header');
  }
  const body = bytes.toString('latin1', BLOCK, BLOCK + Math.min(BLOCK, parseOctal(text(bytes, 'size'))));
  const size = /^\d+ size=(\d{1,15})\n/m.exec(body)?.[1];
  if (size === undefined)
    throw new FormatError('ERR_TAR_CORRUPT', 'layer archive: its pax header gives no size');
  return slice(source, WRAP_HEADER_BYTES, Number(size));
}

function slice(source: ByteSource, start: number, size: number): ByteSource {
  if (!Number.isSafeInteger(size) || start + size > source.size) {
    throw new FormatError(
      'ERR_TAR_CORRUPT',
      `layer archive: a member of ${size} bytes at ${start} is not inside its ${source.size}`,
    );
  }
  return new SliceSource(source, start, size);
}

function isTarHeader(bytes: Buffer): boolean {
  if (bytes.length !== BLOCK || bytes.toString('latin1', FIELD.magic[0], FIELD.magic[0] + 8) !== USTAR)
    return false;
  return checksum(bytes) === parseOctal(text(bytes, 'checksum'));
}

function encodeTarHeader(fields: Partial<Record<keyof typeof FIELD, string>>): Buffer {
  const bytes = Buffer.alloc(BLOCK);
  for (const [name, [at]] of Object.entries(FIELD))
    bytes.write(fields[name as keyof typeof FIELD] ?? '', at, 'latin1');
  bytes.write(`${checksum(bytes).toString(8).padStart(6)} \0`, FIELD.checksum[0], 'latin1');
  return bytes;
}

/** The sum of all bytes, the checksum's own taken as spaces (POSIX ustar). */
function checksum(bytes: Buffer): number {
  const [from, length] = FIELD.checksum;
  return bytes.reduce((sum, byte, at) => sum + (at >= from && at < from + length ? 0x20 : byte), 0);
}

function text(bytes: Buffer, field: keyof typeof FIELD): string {
  const [at, length] = FIELD[field];
  return bytes.toString('latin1', at, at + length);
}

function octal(value: number, width: number): string {
  return `${value.toString(8).padStart(width)} `;
}

/** NaN for what is no octal number. */
function parseOctal(field: string): number {
  const digits = /^ *([0-7]+)[ \0]/.exec(`${field}\0`)?.[1];
  return digits === undefined ? Number.NaN : Number.parseInt(digits, 8);
}

/** A pax record, which begins with its own length. */
function paxRecord(key: string, value: string): string {
  const rest = ` ${key}=${value}\n`;
  let length = rest.length;
  while (String(length).length + rest.length !== length) length = String(length).length + rest.length;
  return `${length}${rest}`;
}
