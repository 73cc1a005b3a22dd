import { type ByteString, toBytes } from '../../src/format/byte-string.ts';
import { loadLibrary } from '../../src/format/native.ts';

const libc = loadLibrary('libc.so.6', 'libc6');
const llistxattr = libc.func('int64_t llistxattr(const void *path, void *list, size_t size)');
const lgetxattr = libc.func(
  'int64_t lgetxattr(const void *path, const void *name, void *value, size_t size)',
);
const lsetxattr = libc.func(
  'int lsetxattr(const void *path, const void *name, const void *value, size_t size, int flags)',
);

/** XATTR_LIST_MAX and XATTR_SIZE_MAX of Linux. */
const scratch = Buffer.alloc(65_536);

/** All extended attributes of a file, of a symbolic link itself: full name → value, both as bytes. */
export function readXattrs(file: Buffer): Record<ByteString, ByteString> {
  const path = terminated(file);
  const listBytes = check('list the xattrs of', file, llistxattr(path, scratch, scratch.length));
  const names = scratch.toString('latin1', 0, listBytes).split('\0').slice(0, -1).sort();
  const xattrs: Record<ByteString, ByteString> = {};
  for (const name of names) {
    const size = lgetxattr(path, terminated(toBytes(name)), scratch, scratch.length);
    xattrs[name] = scratch.toString('latin1', 0, check(`read the xattr ${name} of`, file, size));
  }
  return xattrs;
}

/** Sets one extended attribute, of a symbolic link itself. */
export function writeXattr(file: string, name: ByteString, value: Buffer): void {
  const path = Buffer.from(file);
  const status = lsetxattr(terminated(path), terminated(toBytes(name)), value, value.length, 0);
  check(`set the xattr ${name} of`, path, status);
}

function terminated(bytes: Buffer): Buffer {
  return Buffer.concat([bytes, Buffer.from([0])]);
}

function check(what: string, file: Buffer, result: number | bigint): number {
  if (result < 0) throw new Error(`cannot ${what} ${file.toString()}`);
  return Number(result);
}
