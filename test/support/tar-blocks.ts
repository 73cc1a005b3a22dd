/** Fields of a handmade header block; numbers may be given as raw field bytes. */
export interface HandmadeHeader {
  readonly path?: string;
  readonly prefix?: string;
  readonly mode?: number | Buffer;
  readonly uid?: number | Buffer;
  readonly gid?: number | Buffer;
  readonly size?: number | Buffer;
  readonly mtime?: number | Buffer;
  readonly type?: string;
  readonly linkTarget?: string;
  readonly deviceMajor?: number | Buffer;
  readonly deviceMinor?: number | Buffer;
  /** "ustar\0" + "00" by default, empty for v7. */
  readonly magic?: string;
  /** Further bytes, by offset. */
  readonly patches?: ReadonlyMap<number, Buffer>;
  readonly signedChecksum?: boolean;
}

export const GNU_MAGIC = 'ustar  \0';
/** The end of an archive. */
export const END_BLOCKS = Buffer.alloc(1024);

/** One 512-byte header block with a right checksum. Strings are latin1: one character, one byte. */
export function tarHeader(fields: HandmadeHeader): Buffer {
  const block = Buffer.alloc(512);
  block.write(fields.path ?? '', 0, 100, 'latin1');
  writeNumber(block, 100, 8, fields.mode ?? 0o644);
  writeNumber(block, 108, 8, fields.uid ?? 0);
  writeNumber(block, 116, 8, fields.gid ?? 0);
  writeNumber(block, 124, 12, fields.size ?? 0);
  writeNumber(block, 136, 12, fields.mtime ?? 0);
  block.write(fields.type ?? '0', 156, 1, 'latin1');
  block.write(fields.linkTarget ?? '', 157, 100, 'latin1');
  block.write(fields.magic ?? 'ustar\x0000', 257, 8, 'latin1');
  if (fields.deviceMajor !== undefined) writeNumber(block, 329, 8, fields.deviceMajor);
  if (fields.deviceMinor !== undefined) writeNumber(block, 337, 8, fields.deviceMinor);
  if (fields.prefix !== undefined) block.write(fields.prefix, 345, 155, 'latin1');
  for (const [offset, bytes] of fields.patches ?? []) bytes.copy(block, offset);
  block.fill(' ', 148, 156);
  let sum = 0;
  for (const byte of block) sum += fields.signedChecksum && byte >= 0x80 ? byte - 256 : byte;
  block.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148, 8, 'latin1');
  return block;
}

/** A header and its data, filled up to whole blocks. `size` follows the data unless it is given. */
export function tarMember(fields: HandmadeHeader, data: Buffer | string = ''): Buffer {
  const bytes = typeof data === 'string' ? Buffer.from(data, 'latin1') : data;
  const padding = Buffer.alloc((512 - (bytes.length % 512)) % 512);
  return Buffer.concat([tarHeader({ size: bytes.length, ...fields }), bytes, padding]);
}

/** A pax extended header ('x' for the next member, 'g' for all further ones). */
export function paxHeader(records: readonly (readonly [string, string | Buffer])[], type = 'x'): Buffer {
  return tarMember(
    { path: 'pax', type },
    Buffer.concat(records.map(([key, value]) => paxRecord(key, value))),
  );
}

/** "LENGTH KEY=VALUE\n", where the length counts itself. */
export function paxRecord(key: string, value: string | Buffer): Buffer {
  const rest = Buffer.concat([
    Buffer.from(` ${key}=`, 'latin1'),
    typeof value === 'string' ? Buffer.from(value, 'latin1') : value,
    Buffer.from('\n'),
  ]);
  let length = rest.length;
  while (String(length).length + rest.length !== length) length = String(length).length + rest.length;
  return Buffer.concat([Buffer.from(String(length)), rest]);
}

/** A number in GNU's base-256 form. */
export function base256(value: bigint, width: number): Buffer {
  const bytes = Buffer.alloc(width);
  let rest = BigInt.asUintN(width * 8, value);
  for (let i = width - 1; i >= 0; i--) {
    bytes[i] = Number(rest & 0xffn);
    rest >>= 8n;
  }
  bytes[0] = bytes[0]! | 0x80;
  return bytes;
}

function writeNumber(block: Buffer, offset: number, width: number, value: number | Buffer): void {
  if (typeof value !== 'number') value.copy(block, offset);
  else block.write(`${value.toString(8).padStart(width - 1, '0')}\0`, offset, width, 'latin1');
}
