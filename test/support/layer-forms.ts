/**
 * A layer's tar in all the forms that registries hold, right and wrong ones. The unit tests convert each; the
 * end-to-end tests ask containerd whether it takes them.
 */
import { constants, crc32, deflateRawSync, gzipSync, zstdCompressSync } from 'node:zlib';
import { OCI_LAYER_TAR } from '../../src/oci/media-types.ts';
import { END_BLOCKS, tarMember } from './tar-blocks.ts';

export const OCI_GZIP = `${OCI_LAYER_TAR}+gzip`;
export const OCI_ZSTD = `${OCI_LAYER_TAR}+zstd`;
export const DOCKER_TAR = 'application/vnd.docker.image.rootfs.diff.tar';
export const DOCKER_GZIP = `${DOCKER_TAR}.gzip`;

export interface LayerForm {
  readonly name: string;
  readonly mediaType: string;
  readonly pack: (tar: Buffer) => Buffer;
  /** What the error says, null for forms that are taken. */
  readonly error: RegExp | null;
  /** Where containerd 1.6 thinks otherwise about it, and why we do not follow. */
  readonly containerdDiffers: string | null;
}

const third = (tar: Buffer) => Math.floor(tar.length / 3);
const thirds = (tar: Buffer) => [
  tar.subarray(0, third(tar)),
  tar.subarray(third(tar), 2 * third(tar)),
  tar.subarray(2 * third(tar)),
];

function pieces(bytes: Buffer, length: number): Buffer[] {
  return Array.from({ length: Math.ceil(bytes.length / length) }, (_, at) =>
    bytes.subarray(at * length, (at + 1) * length),
  );
}

/** RFC 1952, 2.3. */
const FLAG = { text: 1, headerCrc: 2, extra: 4, name: 8, comment: 16 } as const;

interface GzipFields {
  readonly flags?: number;
  readonly extra?: Buffer;
  readonly crc?: number;
  readonly length?: number;
  readonly headerCrc?: number;
  readonly level?: number;
}

/** A member with header fields and checks as they are given, else right ones. */
function gzipMember(data: Buffer, fields: GzipFields = {}): Buffer {
  const { flags = 0, extra = Buffer.alloc(0), level = 6 } = fields;
  const parts: Buffer[] = [Buffer.from([0x1f, 0x8b, 8, flags, 1, 2, 3, 4, 0, 255])];
  if (flags & FLAG.extra) parts.push(u16(extra.length), extra);
  if (flags & FLAG.name) parts.push(Buffer.from('layer.tar\0'));
  if (flags & FLAG.comment) parts.push(Buffer.from('made by hand\0'));
  if (flags & FLAG.headerCrc) parts.push(u16((fields.headerCrc ?? crc32(Buffer.concat(parts))) & 0xffff));
  return Buffer.concat([
    ...parts,
    deflateRawSync(data, { level }),
    u32(fields.crc ?? crc32(data)),
    u32(fields.length ?? data.length),
  ]);
}

/** An extra field as estargz has it in its footer: subfield "SG", 16 hexadecimal digits and "STARGZ". */
function estargzFooter(tocOffset: number): Buffer {
  const payload = `${tocOffset.toString(16).padStart(16, '0')}STARGZ`;
  const extra = Buffer.concat([Buffer.from('SG'), u16(payload.length), Buffer.from(payload)]);
  return gzipMember(Buffer.alloc(0), { flags: FLAG.extra, extra, level: 0 });
}

/** As estargz writes layers: each piece of the tar is a member, and a footer points to the last one. */
function estargz(tar: Buffer): Buffer {
  const members = pieces(tar, 4096).map((piece) => gzipSync(piece));
  return Buffer.concat([...members, estargzFooter(Buffer.concat(members.slice(0, -1)).length)]);
}

const ZSTD = {
  contentSize: constants.ZSTD_c_contentSizeFlag,
  checksum: constants.ZSTD_c_checksumFlag,
  windowLog: constants.ZSTD_c_windowLog,
} as const;

function zstdFrame(data: Buffer, params: Record<number, number> = {}): Buffer {
  return zstdCompressSync(data, { params: { [ZSTD.checksum]: 1, ...params } });
}

/** RFC 8878, 3.1.2: 16 magic numbers, then the length of what is skipped. */
function skippable(content: Buffer, kind = 0): Buffer {
  return Buffer.concat([u32(0x184d2a50 + kind), u32(content.length), content]);
}

/** As zstd:chunked is laid out: a frame for each piece, then a manifest and a footer in skippable frames. */
function zstdChunked(tar: Buffer): Buffer {
  const manifest = zstdFrame(Buffer.from('{"version":1,"entries":[]}'));
  const footer = Buffer.concat([Buffer.alloc(56), Buffer.from('GNUlInUx')]);
  return Buffer.concat([
    ...thirds(tar).map((part) => zstdFrame(part)),
    skippable(manifest),
    skippable(footer),
  ]);
}

/**
 * A frame whose header asks for a window of 2^log bytes, with the data in uncompressed blocks: what such a window costs
 * a reader costs the writer nothing here. RFC 8878, 3.1.1: descriptor without content size and checksum, window
 * descriptor, blocks.
 */
function zstdWindow(data: Buffer, log: number): Buffer {
  const parts = [u32(0xfd2fb528), Buffer.from([0, (log - 10) << 3])];
  for (let at = 0; at < data.length; at += 65_536) {
    const block = data.subarray(at, at + 65_536);
    const isLast = at + 65_536 >= data.length;
    const header = (block.length << 3) | Number(isLast);
    parts.push(u32(header).subarray(0, 3), block);
  }
  return Buffer.concat(parts);
}

function flip(bytes: Buffer, at: number): Buffer {
  const copy = Buffer.from(bytes);
  const index = at < 0 ? bytes.length + at : at;
  copy[index] = (copy[index] ?? 0) ^ 0xff;
  return copy;
}

function u16(value: number): Buffer {
  const bytes = Buffer.alloc(2);
  bytes.writeUInt16LE(value);
  return bytes;
}

function u32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value >>> 0);
  return bytes;
}

const cut = (bytes: Buffer, count: number) => bytes.subarray(0, bytes.length - count);
const join = (...parts: readonly Buffer[]) => Buffer.concat(parts);
const ZEROS = Buffer.alloc(512);
const EMPTY = Buffer.alloc(0);
const ALL_FIELDS = FLAG.text | FLAG.headerCrc | FLAG.extra | FLAG.name | FLAG.comment;

type Pack = LayerForm['pack'];

function good(
  mediaType: string,
  name: string,
  pack: Pack,
  containerdDiffers: string | null = null,
): LayerForm {
  return { name, mediaType, pack, error: null, containerdDiffers };
}

function bad(
  mediaType: string,
  name: string,
  pack: Pack,
  error: RegExp,
  containerdDiffers: string | null = null,
): LayerForm {
  return { name, mediaType, pack, error, containerdDiffers };
}

const GZIP_ERROR = /gzip stream/;
const ZSTD_ERROR = /zstd stream/;
const TAR_ERROR = /tar/;

/** A tar to be packed: 260 KB, of which 60 KB shrink little. The same bytes each time. */
export function sampleTar(): Buffer {
  const noise = Buffer.alloc(60_000);
  let state = 1;
  for (let at = 0; at < noise.length; at++) {
    state = (Math.imul(state, 1_103_515_245) + 12_345) >>> 0;
    noise[at] = state >>> 24;
  }
  return Buffer.concat([
    tarMember({ path: 'noise' }, noise),
    tarMember({ path: 'text' }, Buffer.alloc(200_000, 'hello world ')),
    END_BLOCKS,
  ]);
}

/** For {@link sampleTar}. */
export const LAYER_FORMS: readonly LayerForm[] = [
  good(OCI_LAYER_TAR, 'a tar as it is', (tar) => tar),
  good(DOCKER_TAR, "a tar as it is, of Docker's type", (tar) => tar),

  good(OCI_GZIP, 'gzip', (tar) => gzipSync(tar)),
  good(DOCKER_GZIP, "gzip of Docker's type", (tar) => gzipSync(tar)),
  good(OCI_GZIP, 'gzip that compresses nothing', (tar) => gzipSync(tar, { level: 0 })),
  good(OCI_GZIP, 'gzip with all header fields', (tar) =>
    gzipMember(tar, { flags: ALL_FIELDS, extra: Buffer.from('XX\0\0') }),
  ),
  good(OCI_GZIP, 'gzip with an extra field of 65,535 bytes', (tar) =>
    gzipMember(tar, { flags: FLAG.extra, extra: Buffer.alloc(65_535, 1) }),
  ),
  good(OCI_GZIP, 'gzip in members with long headers and checksums of these', (tar) =>
    join(
      ...pieces(tar, 16_384).map((piece) =>
        gzipMember(piece, { flags: FLAG.extra | FLAG.headerCrc, extra: Buffer.alloc(60_000, 1) }),
      ),
    ),
  ),
  good(OCI_GZIP, 'gzip in three members', (tar) => join(...thirds(tar).map((part) => gzipSync(part)))),
  good(OCI_GZIP, 'gzip with empty members in front, between and behind', (tar) =>
    join(
      gzipSync(EMPTY),
      ...thirds(tar).flatMap((part) => [gzipMember(part, { flags: FLAG.name }), gzipSync(EMPTY)]),
    ),
  ),
  good(OCI_GZIP, 'estargz', estargz),
  bad(OCI_GZIP, 'gzip with zeros behind it', (tar) => join(gzipSync(tar), ZEROS), GZIP_ERROR),
  bad(OCI_GZIP, 'gzip with one zero behind it', (tar) => join(gzipSync(tar), Buffer.alloc(1)), GZIP_ERROR),
  bad(
    OCI_GZIP,
    'gzip with garbage behind it',
    (tar) => join(gzipSync(tar), Buffer.from('garbage!garbage!')),
    GZIP_ERROR,
  ),
  bad(OCI_GZIP, 'gzip with a tar behind it', (tar) => join(gzipSync(tar), tar), GZIP_ERROR),
  bad(
    OCI_GZIP,
    'gzip with half a header behind it',
    (tar) => join(gzipSync(tar), Buffer.from([0x1f, 0x8b, 8])),
    GZIP_ERROR,
  ),
  bad(
    OCI_GZIP,
    'gzip with half a member behind it',
    (tar) => join(gzipSync(tar), cut(gzipSync(tar), 100)),
    GZIP_ERROR,
  ),
  bad(OCI_GZIP, 'gzip cut in its data', (tar) => cut(gzipSync(tar), 1000), GZIP_ERROR),
  bad(OCI_GZIP, 'gzip cut before its trailer', (tar) => cut(gzipSync(tar), 8), GZIP_ERROR),
  bad(OCI_GZIP, 'gzip cut within its trailer', (tar) => cut(gzipSync(tar), 1), GZIP_ERROR),
  bad(OCI_GZIP, 'gzip cut within its header', (tar) => gzipSync(tar).subarray(0, 6), GZIP_ERROR),
  bad(
    OCI_GZIP,
    'gzip cut between its members',
    (tar) =>
      join(
        ...thirds(tar)
          .slice(0, 2)
          .map((part) => gzipSync(part)),
      ),
    TAR_ERROR,
  ),
  bad(OCI_GZIP, 'gzip with a wrong checksum', (tar) => gzipMember(tar, { crc: 1 }), GZIP_ERROR),
  bad(OCI_GZIP, 'gzip with a wrong length', (tar) => gzipMember(tar, { length: tar.length + 1 }), GZIP_ERROR),
  bad(
    OCI_GZIP,
    'gzip with a wrong checksum of its first member',
    (tar) => join(gzipMember(tar.subarray(0, 70_000), { crc: 1 }), gzipSync(tar.subarray(70_000))),
    GZIP_ERROR,
  ),
  bad(
    OCI_GZIP,
    'gzip with a wrong checksum of its header',
    (tar) => gzipMember(tar, { flags: FLAG.headerCrc, headerCrc: 1 }),
    GZIP_ERROR,
  ),
  bad(OCI_GZIP, 'gzip with a method that there is not', (tar) => flip(gzipSync(tar), 2), /gzip stream|tar/),
  bad(OCI_GZIP, 'gzip with a damaged byte in its data', (tar) => flip(gzipSync(tar), 2000), GZIP_ERROR),

  good(OCI_ZSTD, 'zstd', (tar) => zstdFrame(tar)),
  good(`${DOCKER_TAR}.zstd`, "zstd of Docker's type", (tar) => zstdFrame(tar), 'newer ones know this type'),
  good(OCI_ZSTD, 'zstd without content size and checksum', (tar) =>
    zstdFrame(tar, { [ZSTD.contentSize]: 0, [ZSTD.checksum]: 0 }),
  ),
  good(OCI_ZSTD, 'zstd in three frames', (tar) => join(...thirds(tar).map((part) => zstdFrame(part)))),
  good(OCI_ZSTD, 'zstd with empty frames in front, between and behind', (tar) =>
    join(zstdFrame(EMPTY), ...thirds(tar).flatMap((part) => [zstdFrame(part), zstdFrame(EMPTY)])),
  ),
  good(OCI_ZSTD, 'zstd with skippable frames in front, between and behind', (tar) =>
    join(
      skippable(Buffer.from('in front'), 15),
      ...thirds(tar).flatMap((part, at) => [zstdFrame(part), skippable(EMPTY, at)]),
      skippable(Buffer.alloc(300_000, 'large')),
    ),
  ),
  good(OCI_ZSTD, 'zstd:chunked', zstdChunked),
  good(OCI_ZSTD, 'zstd with a window of 128 MiB', (tar) => zstdWindow(tar, 27)),
  bad(
    OCI_ZSTD,
    'zstd with a window of 256 MiB',
    (tar) => zstdWindow(tar, 28),
    ZSTD_ERROR,
    'windows up to 512 MiB: far more memory than a conversion may take',
  ),
  bad(OCI_ZSTD, 'zstd with a window of 2 GiB', (tar) => zstdWindow(tar, 31), ZSTD_ERROR),
  bad(OCI_ZSTD, 'zstd with zeros behind it', (tar) => join(zstdFrame(tar), ZEROS), ZSTD_ERROR),
  bad(
    OCI_ZSTD,
    'zstd with garbage behind it',
    (tar) => join(zstdFrame(tar), Buffer.from('garbage!garbage!')),
    ZSTD_ERROR,
  ),
  bad(OCI_ZSTD, 'zstd cut in its data', (tar) => cut(zstdFrame(tar), 1000), ZSTD_ERROR),
  bad(OCI_ZSTD, 'zstd cut within its checksum', (tar) => cut(zstdFrame(tar), 1), ZSTD_ERROR),
  bad(OCI_ZSTD, 'zstd cut within its header', (tar) => zstdFrame(tar).subarray(0, 5), ZSTD_ERROR),
  bad(
    OCI_ZSTD,
    'zstd cut between its frames',
    (tar) =>
      join(
        ...thirds(tar)
          .slice(0, 2)
          .map((part) => zstdFrame(part)),
      ),
    TAR_ERROR,
  ),
  bad(
    OCI_ZSTD,
    'zstd cut within a skippable frame',
    (tar) => cut(join(zstdFrame(tar), skippable(Buffer.alloc(100))), 10),
    ZSTD_ERROR,
  ),
  bad(OCI_ZSTD, 'zstd with a wrong checksum', (tar) => flip(zstdFrame(tar), -1), ZSTD_ERROR),
  bad(OCI_ZSTD, 'zstd with a damaged byte in its data', (tar) => flip(zstdFrame(tar), 2000), ZSTD_ERROR),

  // What a media type says of compression is a hint to containerd and Docker: they look at the bytes.
  good(OCI_GZIP, 'a tar that calls itself gzip', (tar) => tar),
  good(OCI_GZIP, 'zstd that calls itself gzip', (tar) => zstdFrame(tar)),
  good(OCI_ZSTD, 'gzip that calls itself zstd', (tar) => gzipSync(tar)),
  good(OCI_ZSTD, 'a tar that calls itself zstd', (tar) => tar),
  good(DOCKER_TAR, "gzip that calls itself Docker's tar", (tar) => gzipSync(tar)),
  good(
    OCI_LAYER_TAR,
    'gzip that calls itself a tar',
    (tar) => gzipSync(tar),
    'it looks at others only; Docker does',
  ),
  bad(OCI_GZIP, 'bytes that are nothing of all this', () => Buffer.alloc(5000, 'neither'), TAR_ERROR),
  bad(OCI_GZIP, 'gzip within gzip', (tar) => gzipSync(gzipSync(tar)), TAR_ERROR),
];

/** The well-known gzip of an empty tar: sha256:a3ed95caeb02ffe68cdd9fd84406680ae93d633cb16422d00e8a7c22955b46d4. */
export const DOCKER_EMPTY_LAYER = Buffer.from(
  '1f8b080000096e8800ff621805a360148c5800080000ffff2eafb5ef00040000',
  'hex',
);
