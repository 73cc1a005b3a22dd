import type { ByteString } from '../../src/format/byte-string.ts';
import type { Attributes, LayerEntry } from '../../src/format/layer-entry.ts';
import type { Random } from '../fuzz/random.ts';
import { base256, END_BLOCKS, GNU_MAGIC, type HandmadeHeader, paxHeader, tarMember } from './tar-blocks.ts';

const TYPEFLAGS = {
  file: '0',
  directory: '5',
  symlink: '2',
  hardlink: '1',
  character: '3',
  block: '4',
  fifo: '6',
};
const FIELD_BYTES = 100;
const BLOCK = 512;
type Records = (readonly [string, string | Buffer])[];

/**
 * A layer's entries as a tar archive, in forms that `random` chooses among those that archives in the wild have:
 * "./" and absolute names, pax and GNU headers for what is long, base-256 numbers, sparse files, and xattrs as two
 * programs write them. All of them mean the same.
 */
export function archiveOf(
  entries: readonly LayerEntry[],
  contentOf: (entry: LayerEntry) => Buffer,
  random: Random,
): Buffer {
  const members = entries.map((entry) => memberOf(entry, contentOf(entry), random));
  return Buffer.concat([...members, random.oneIn(4) ? Buffer.alloc(0) : END_BLOCKS]);
}

function memberOf(entry: LayerEntry, content: Buffer, random: Random): Buffer {
  if (entry.kind === 'whiteout' || entry.kind === 'opaque') {
    return member({ path: anyForm(markerOf(entry), random), type: '0' }, [], Buffer.alloc(0), random);
  }
  const records: Records = [];
  const isDirectory = entry.kind === 'directory';
  const path = anyForm(entry.path, random) + (isDirectory && random.oneIn(2) ? '/' : '');
  let fields: HandmadeHeader & { path: string } = {
    path: path === '' ? './' : path,
    type: TYPEFLAGS[entry.kind],
  };
  if (entry.kind === 'hardlink') {
    // Archivers that give a link no attributes of its own do not exist.
    if (entry.changes === null) throw new Error(`the hard link ${entry.path} has no attributes`);
    const changes = attributeFields({ ...entry.changes, xattrs: new Map() }, records, random);
    fields = { ...fields, linkTarget: anyForm(entry.target, random), ...changes };
  } else {
    fields = { ...fields, ...attributeFields(entry.attributes, records, random) };
  }
  if (entry.kind === 'symlink') fields = { ...fields, linkTarget: entry.target };
  if (entry.kind === 'character' || entry.kind === 'block') {
    fields = { ...fields, deviceMajor: entry.major, deviceMinor: entry.minor };
  }
  if (entry.kind === 'file' && random.oneIn(2)) return sparseMember(fields, records, content, random);
  return member(fields, records, content, random);
}

function markerOf({ kind, path }: LayerEntry): ByteString {
  if (kind === 'opaque') return `${path}/.wh..wh..opq`;
  const slash = path.lastIndexOf('/');
  return `${path.slice(0, slash + 1)}.wh.${path.slice(slash + 1)}`;
}

function anyForm(path: ByteString, random: Random): ByteString {
  const relative = path.replace(/^\//, '');
  return random.pick([
    relative,
    `./${relative}`,
    `/${relative}`,
    `.//${relative}`,
    relative.replaceAll('/', '/./'),
  ]);
}

function attributeFields(attributes: Attributes, records: Records, random: Random): HandmadeHeader {
  const { mode, uid, gid, mtimeSeconds, mtimeNanoseconds, xattrs } = attributes;
  for (const [name, value] of xattrs) {
    const isBase64 = random.oneIn(2);
    const key = isBase64 ? 'LIBARCHIVE' : 'SCHILY';
    records.push([`${key}.xattr.${name}`, isBase64 ? value.toString('base64') : value]);
  }
  const inPax = mtimeNanoseconds !== 0 || random.oneIn(2);
  if (!inPax)
    return {
      mode,
      uid: base256(BigInt(uid), 8),
      gid: base256(BigInt(gid), 8),
      mtime: base256(BigInt(mtimeSeconds), 12),
    };
  const ns = BigInt(mtimeSeconds) * 1_000_000_000n + BigInt(mtimeNanoseconds);
  const magnitude = ns < 0n ? -ns : ns;
  const fraction = String(magnitude % 1_000_000_000n).padStart(9, '0');
  records.push(['mtime', `${ns < 0n ? '-' : ''}${magnitude / 1_000_000_000n}.${fraction}`]);
  records.push(['uid', String(uid)], ['gid', String(gid)]);
  return { mode };
}

/** With what is too long for a header block in front, one way or the other. */
function member(
  fields: HandmadeHeader & { path: string },
  records: Records,
  data: Buffer,
  random: Random,
): Buffer {
  const { path, linkTarget = '' } = fields;
  const parts: Buffer[] = [];
  const all = [...records];
  for (const [value, key, type] of [
    [path, 'path', 'L'],
    [linkTarget, 'linkpath', 'K'],
  ] as const) {
    if (value.length <= FIELD_BYTES) continue;
    if (random.oneIn(2)) all.push([key, value]);
    else parts.push(tarMember({ path: '././@LongLink', type, magic: GNU_MAGIC }, `${value}\0`));
  }
  if (all.length > 0) parts.push(paxHeader(all));
  return Buffer.concat([
    ...parts,
    tarMember(
      { ...fields, path: path.slice(0, FIELD_BYTES), linkTarget: linkTarget.slice(0, FIELD_BYTES) },
      data,
    ),
  ]);
}

/** A file in GNU's sparse formats of pax, its zeros as holes. */
function sparseMember(
  fields: HandmadeHeader & { path: string },
  records: Records,
  content: Buffer,
  random: Random,
): Buffer {
  const extents = dataExtents(content);
  const data = Buffer.concat(extents.map(([offset, length]) => content.subarray(offset, offset + length)));
  const size = String(content.length);
  const placeholder = { ...fields, path: 'GNUSparseFile.0/x' };
  switch (random.below(3)) {
    case 0: {
      const pairs = extents.flatMap(
        ([offset, length]): Records => [
          ['GNU.sparse.offset', String(offset)],
          ['GNU.sparse.numbytes', String(length)],
        ],
      );
      return member(fields, [...records, ['GNU.sparse.size', size], ...pairs], data, random);
    }
    case 1: {
      const map = extents.flat().join(',');
      const sparse: Records = [
        ['GNU.sparse.size', size],
        ['GNU.sparse.name', fields.path],
        ['GNU.sparse.map', map],
      ];
      return member(placeholder, [...records, ...sparse], data, random);
    }
    default: {
      const text = Buffer.from(`${[extents.length, ...extents.flat()].join('\n')}\n`);
      const map = Buffer.concat([text, Buffer.alloc((BLOCK - (text.length % BLOCK)) % BLOCK)]);
      const sparse: Records = [
        ['GNU.sparse.major', '1'],
        ['GNU.sparse.minor', '0'],
        ['GNU.sparse.name', fields.path],
        ['GNU.sparse.realsize', size],
      ];
      return member(placeholder, [...records, ...sparse], Buffer.concat([map, data]), random);
    }
  }
}

/** Offset and length of what is not zero, in whole blocks. */
function dataExtents(content: Buffer): (readonly [number, number])[] {
  const extents: [number, number][] = [];
  for (let at = 0; at < content.length; at += BLOCK) {
    const block = content.subarray(at, at + BLOCK);
    if (block.every((byte) => byte === 0)) continue;
    const last = extents.at(-1);
    if (last !== undefined && last[0] + last[1] === at) last[1] += block.length;
    else extents.push([at, block.length]);
  }
  return extents;
}
