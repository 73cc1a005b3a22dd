import { join } from 'node:path';
import { makeTar, type TarInput } from './tar-maker.ts';

/** Sizes around the block of a file system, and more than any inline data. */
const SIZES = [0, 1, 4095, 4096, 4097, 100_000];
const DAY_NS = 86_400_000_000_000n;

/**
 * Three layers with what images seldom have and file systems must keep: odd sizes, owners, times, names that are not
 * UTF-8, xattrs, devices, hard links within and across layers, whiteouts, opaque directories, and paths of one type
 * that become another. The same seed gives the same bytes.
 */
export function oddImageLayers(seed = 1): TarInput[][] {
  const bytes = seededBytes(seed);
  return [lowest(bytes), middle(bytes), topmost(bytes)];
}

/** Writes the layers' archives into a directory and gives their paths, the lowest first. */
export function writeOddImage(dir: string, seed = 1): string[] {
  return oddImageLayers(seed).map((entries, i) => {
    const path = join(dir, `odd-${seed}-layer${i + 1}.tar`);
    makeTar(entries, path);
    return path;
  });
}

type RandomBytes = (length: number) => Buffer;

function lowest(bytes: RandomBytes): TarInput[] {
  return [
    { path: './', type: 'directory', mode: 0o755 },
    { path: 'etc', type: 'directory' },
    { path: 'etc/passwd', content: Buffer.from('root:x:0:0:root:/root:/bin/sh\n') },
    { path: 'etc/removed', content: bytes(10) },
    { path: 'etc/kept', content: bytes(5000), xattrs: { 'user.origin': Buffer.from('lowest') } },
    { path: 'tmp', type: 'directory', mode: 0o1777 },
    { path: 'usr', type: 'directory' },
    { path: 'usr/lib', type: 'directory' },
    { path: 'lib', type: 'symlink', mode: 0o777, linkTarget: 'usr/lib' },
    { path: 'sizes', type: 'directory' },
    ...SIZES.map((size) => ({ path: `sizes/${size}`, content: bytes(size) })),
    ...oddities(bytes),
    { path: 'links', type: 'directory' },
    { path: 'links/first', content: bytes(6000), uid: 7, xattrs: { 'user.a': bytes(10) } },
    { path: 'links/second', type: 'hardlink', linkTarget: 'links/first', uid: 7 },
    { path: 'links/third', type: 'hardlink', linkTarget: './links/first', uid: 7 },
    { path: 'links/dangling', type: 'symlink', mode: 0o777, linkTarget: '/no/such/file' },
    { path: 'links/long', type: 'symlink', mode: 0o777, linkTarget: `${'t/'.repeat(200)}end` },
    { path: 'gone', type: 'directory' },
    { path: 'gone/deep', type: 'directory' },
    { path: 'gone/deep/file', content: bytes(100) },
    { path: 'hidden', type: 'directory', mode: 0o700, uid: 3 },
    { path: 'hidden/below', content: bytes(100) },
    { path: 'hidden/both', content: bytes(200) },
    { path: 'hidden/dir', type: 'directory' },
    { path: 'hidden/dir/below', content: bytes(50) },
    { path: 'turns', type: 'directory' },
    { path: 'turns/file-to-dir', content: bytes(4096) },
    { path: 'turns/dir-to-file', type: 'directory' },
    { path: 'turns/dir-to-file/child', content: bytes(10) },
    { path: 'turns/file-to-link', content: bytes(10) },
    { path: 'turns/link-to-dir', type: 'symlink', mode: 0o777, linkTarget: '../sizes' },
    { path: 'many', type: 'directory' },
    ...Array.from({ length: 600 }, (_, i) => ({ path: `many/entry-number-${i}`, content: bytes(i % 7) })),
  ];
}

function oddities(bytes: RandomBytes): TarInput[] {
  return [
    { path: 'odd', type: 'directory', xattrs: { 'user.directory': bytes(20) } },
    { path: 'odd/caf\xe9', content: bytes(10) },
    { path: 'odd/\xff\xfe\n\t ', content: bytes(10) },
    { path: `odd/${'n'.repeat(255)}`, content: bytes(10) },
    { path: `odd/${'d'.repeat(200)}`, type: 'directory' },
    { path: `odd/${'d'.repeat(200)}/${'\xe9'.repeat(200)}`, content: bytes(10) },
    { path: 'odd/setuid', content: bytes(10), mode: 0o4755, uid: 3_000_000, gid: 4_294_967_290 },
    { path: 'odd/setgid', type: 'directory', mode: 0o2775, gid: 65_536 },
    { path: 'odd/unreadable', content: bytes(10), mode: 0 },
    { path: 'odd/before-1970', content: bytes(10), mtimeNs: -DAY_NS - 1n },
    { path: 'odd/nanoseconds', content: bytes(10), mtimeNs: 1_700_000_000_123_456_789n },
    { path: 'odd/after-2106', content: bytes(10), mtimeNs: 9_000_000_000_000_000_000n },
    {
      path: 'odd/xattrs',
      content: bytes(4090),
      xattrs: {
        'user.binary': Buffer.from([0, 0xff, 0x0a, 0x3d]),
        // No empty value: umoci, the judge of what an image holds, loses it.
        'user.large': bytes(2500),
        'security.capability': Buffer.from('0100000202000000000000000000000000000000', 'hex'),
      },
    },
    { path: 'odd/disk', type: 'block', deviceMajor: 259, deviceMinor: 70_000, mode: 0o660, gid: 6 },
    { path: 'odd/null', type: 'character', deviceMajor: 1, deviceMinor: 3, mode: 0o666 },
    { path: 'odd/fifo', type: 'fifo', mode: 0o600 },
    { path: 'odd/empty', type: 'directory' },
    // The type of a whiteout in overlayfs, but not in an archive: an ordinary device.
    { path: 'odd/zero-device', type: 'character' },
  ];
}

function middle(bytes: RandomBytes): TarInput[] {
  return [
    { path: 'etc', type: 'directory', mtimeNs: DAY_NS },
    { path: 'etc/.wh.removed' },
    { path: 'etc/passwd', content: Buffer.from('alice:x:1:1::/:/bin/sh\n'), mode: 0o600 },
    { path: '.wh.gone' },
    { path: '.wh.never-was-there' },
    { path: 'hidden/both', content: bytes(70) },
    { path: 'hidden', type: 'directory', mode: 0o711, uid: 4 },
    { path: 'hidden/new', content: bytes(9000) },
    // Also what stands before the marker in the same layer stays.
    { path: 'hidden/.wh..wh..opq' },
    { path: 'lib/through-the-link', content: bytes(30) },
    { path: 'links/second', content: bytes(20), mode: 0o640 },
    { path: 'links/fourth', type: 'hardlink', linkTarget: 'links/first', uid: 7 },
    { path: 'links/of-the-middle', type: 'hardlink', linkTarget: 'etc/kept' },
    { path: 'turns/file-to-dir', type: 'directory', mode: 0o750 },
    { path: 'turns/file-to-dir/child', content: bytes(10) },
    { path: 'turns/dir-to-file', content: bytes(5000) },
    { path: 'turns/file-to-link', type: 'symlink', mode: 0o777, linkTarget: 'dir-to-file' },
    { path: 'turns/link-to-dir', type: 'directory' },
    { path: 'turns/link-to-dir/child', content: bytes(10) },
    { path: 'odd/empty', type: 'directory', mode: 0o500, xattrs: { 'user.late': bytes(900) } },
    { path: 'many', type: 'directory' },
    ...Array.from({ length: 300 }, (_, i) => ({ path: `many/another-entry-${i}`, content: bytes(3) })),
  ];
}

function topmost(bytes: RandomBytes): TarInput[] {
  return [
    { path: 'gone', type: 'directory', mode: 0o700 },
    { path: 'gone/again', content: bytes(4097) },
    { path: 'hidden/.wh.new' },
    { path: 'links/.wh.first' },
    { path: 'links/fifth', type: 'hardlink', linkTarget: 'links/third', uid: 7 },
    { path: 'turns/.wh.dir-to-file' },
    { path: 'odd/null', content: bytes(10) },
    ...Array.from({ length: 500 }, (_, i) => ({ path: `many/.wh.entry-number-${i}` })),
    { path: 'sizes/100000', content: bytes(99_999), xattrs: { 'user.top': bytes(1) } },
    { path: 'new', type: 'directory' },
    { path: 'new/a', type: 'directory' },
    { path: 'new/a/b', type: 'directory' },
    { path: 'new/a/b/c', content: bytes(12_288) },
  ];
}

/** Mulberry32: a small generator is enough, as long as it is the same everywhere. */
function seededBytes(seed: number): RandomBytes {
  let state = seed >>> 0;
  const next = () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return (mixed ^ (mixed >>> 14)) & 0xff;
  };
  return (length) => {
    const bytes = Buffer.alloc(length);
    for (let i = 0; i < length; i++) bytes[i] = next();
    return bytes;
  };
}
