import { describe, expect, test } from 'vitest';
import { readAll } from '../../test/support/byte-sources.ts';
import { golden, goldenFiles, sha256 } from '../../test/support/golden.ts';
import { BufferSource } from './buffer-source.ts';
import { openLayerBlob, wrapHeader, wrapTrailer } from './overlaybd-tar.ts';

const wrapped = goldenFiles('zfile', 'ext4', 'lsmt', 'merge', 'rw').filter(
  (g) => g.sidecar.obd_info?.tar_wrapped,
);

test('the wrapping of golden files is reproduced byte for byte', () => {
  expect(wrapped.length).toBe(11);
  for (const g of wrapped) {
    const bytes = g.bytes();
    const inner = g.sidecar.obd_info!.tar!.inner_size;
    expect(wrapHeader(inner).equals(bytes.subarray(0, 1536))).toBe(true);
    expect(wrapTrailer(inner).equals(bytes.subarray(1536 + inner))).toBe(true);
  }
});

test('a size that fills its last block needs no padding, and long sizes have longer records', () => {
  expect(wrapTrailer(5120).length).toBe(1024);
  expect(wrapTrailer(5121).length).toBe(511 + 1024);
  expect(wrapHeader(9).toString('latin1', 512, 522)).toBe('9 size=9\n\0');
  expect(wrapHeader(99).toString('latin1', 512, 524)).toBe('11 size=99\n\0');
  expect(wrapHeader(2 ** 40).toString('latin1', 512, 535)).toBe('22 size=1099511627776\n\0');
});

describe('openLayerBlob', async () => {
  const { sidecar } = golden('ext4/layer3.lz4-4k.obd');
  const zfile = golden('ext4/layer3.lz4-4k.obd').bytes();
  const lsmt = golden('ext4/layer3.raw-lsmt.obd').bytes();
  const digest = sidecar.obd_info!.decompressed_sha256!;
  const wrap = (inner: Buffer, trailer = wrapTrailer(inner.length)): Buffer =>
    Buffer.concat([wrapHeader(inner.length), inner, trailer]);
  /** An ordinary tar header before the file, without a pax header. */
  const plainTar = (inner: Buffer, size = `${inner.length.toString(8).padStart(11, '0')} `): Buffer => {
    const header = wrapHeader(inner.length).subarray(1024);
    header.write(size, 124, 'latin1');
    header.fill(' ', 148, 156);
    const sum = header.reduce((total, byte) => total + byte, 0);
    header.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148, 'latin1');
    return Buffer.concat([header, inner, wrapTrailer(inner.length)]);
  };

  test.each([
    ['a ZFile', zfile],
    ['an LSMT file', lsmt],
    ['a wrapped ZFile', wrap(zfile)],
    ['a wrapped LSMT file', wrap(lsmt)],
    ['a ZFile wrapped without a pax header', plainTar(zfile)],
    ['a wrapped ZFile without the end of the archive', wrap(zfile, Buffer.alloc(0))],
    ['a wrapped ZFile with something behind it', wrap(zfile, Buffer.alloc(100_000, 7))],
  ])('finds the LSMT file in %s', async (_what, blob) => {
    expect(sha256(await readAll(await openLayerBlob(new BufferSource(blob))))).toBe(digest);
  });

  const damage = (at: number, text: string): Buffer => {
    const blob = wrap(zfile);
    blob.write(text, at, 'latin1');
    return blob;
  };

  test.each([
    ['whose size reaches beyond the end', damage(512, '14 size=99885\n')],
    ['whose pax header gives no size', damage(512, '14 sise=31885\n')],
    ['whose pax header is not followed by a header', damage(1024 + 257, 'nonsense')],
    ['whose size is no number', plainTar(zfile, '?'.repeat(12))],
    ['that is cut short', wrap(zfile).subarray(0, 20_000)],
  ])('refuses an archive %s', async (_what, blob) => {
    await expect(openLayerBlob(new BufferSource(blob))).rejects.toMatchObject({ code: 'ERR_TAR_CORRUPT' });
  });

  test.each([
    ['an ordinary tar', plainTar(Buffer.alloc(5000, 7))],
    ['an empty file in a tar', plainTar(Buffer.alloc(0))],
    ['a tar header with a wrong checksum', damage(0, 'x')],
    ['a gzip file', Buffer.from('1f8b0800000000000003', 'hex')],
    ['nothing', Buffer.alloc(0)],
  ])('says of %s that it is no layer', async (_what, blob) => {
    await expect(openLayerBlob(new BufferSource(blob))).rejects.toMatchObject({ code: 'ERR_UNSUPPORTED' });
  });
});
