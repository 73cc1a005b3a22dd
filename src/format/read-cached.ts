import { addressOf, loadLibrary } from './native.ts';

/** linux/fs.h: fail with EAGAIN rather than wait for the disk. */
const RWF_NOWAIT = 8;
const IOVEC_BYTES = 16;

type Preadv2 = (fd: number, iovec: number, count: number, offset: number, flags: number) => number;

interface Native {
  readonly preadv2: Preadv2;
  readonly iovec: DataView;
  readonly iovecAddress: number;
}

let native: Native | undefined;
/** Where the memory of buffers starts. It stays there. */
const addresses = new WeakMap<ArrayBufferLike, number>();

/**
 * Fills `target` from a file if the kernel has all of it in its page cache; false if it has not, or the file ends
 * before, or its file system cannot say. Does not wait for a disk: preadv2(2) with RWF_NOWAIT.
 */
export function readCached(fd: number, offset: number, target: Buffer): boolean {
  native ??= load();
  native.iovec.setBigUint64(0, BigInt(baseAddress(target.buffer) + target.byteOffset), true);
  native.iovec.setBigUint64(8, BigInt(target.length), true);
  return native.preadv2(fd, native.iovecAddress, 1, offset, RWF_NOWAIT) === target.length;
}

function load(): Native {
  const iovec = Buffer.alloc(IOVEC_BYTES);
  return {
    preadv2: loadLibrary('libc.so.6', 'libc6').func(
      'int64_t preadv2(int fd, uint64_t iovec, int count, int64_t offset, int flags)',
    ),
    iovec: new DataView(iovec.buffer, iovec.byteOffset, IOVEC_BYTES),
    iovecAddress: Number(addressOf(iovec)),
  };
}

function baseAddress(memory: ArrayBufferLike): number {
  let address = addresses.get(memory);
  if (address === undefined) {
    address = Number(addressOf(Buffer.from(memory)));
    addresses.set(memory, address);
  }
  return address;
}
