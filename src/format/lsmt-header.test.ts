import { describe, expect, test } from 'vitest';
import { goldenFiles } from '../../test/support/golden.ts';
import { decodeLsmtHeader, encodeLsmtHeader, LSMT_HEADER_BYTES } from './lsmt-header.ts';

const recorded = goldenFiles('ext4', 'lsmt', 'merge', 'rw').flatMap((golden) => {
  const lsmt = golden.sidecar.obd_info?.lsmt;
  if (lsmt === undefined) return [];
  return [[`${golden.name} header`, lsmt.header] as const, [`${golden.name} trailer`, lsmt.trailer] as const];
});

function full(hex: string): Buffer {
  return Buffer.concat([Buffer.from(hex, 'hex')], LSMT_HEADER_BYTES);
}

test('the golden files are there', () => {
  expect(recorded.length).toBe(2 * 31);
});

test.each(recorded)(
  'the %s decodes to the recorded fields and encodes to the same bytes',
  (_name, fields) => {
    const bytes = full(fields.raw390_hex);
    const header = decodeLsmtHeader(bytes);
    expect(header).toEqual({
      isHeader: (fields.flags & 1) !== 0,
      isDataFile: (fields.flags & 2) !== 0,
      isSealed: (fields.flags & 4) !== 0,
      indexOffset: fields.index_offset,
      indexEntries: fields.index_size,
      virtualSize: fields.virtual_size,
      uuid: fields.uuid.toLowerCase(),
      parentUuid: fields.parent_uuid.toLowerCase(),
      userTag: fields.user_tag,
    });
    expect(encodeLsmtHeader(header).equals(bytes)).toBe(true);
  },
);

describe('a header', () => {
  const bytes = full(recorded[0]![1].raw390_hex);
  const patched = (at: number, value: number): Buffer => {
    const copy = Buffer.from(bytes);
    copy[at] = value;
    return copy;
  };

  test.each([
    ['with another magic number', patched(8, 0)],
    ['of another length', patched(24, 0)],
    ['with an index offset beyond 2^53', patched(39, 1)],
    ['with a virtual size beyond 2^53', patched(55, 0xff)],
    ['that is cut short', bytes.subarray(0, 400)],
  ])('%s is refused', (_what, damaged) => {
    expect(() => decodeLsmtHeader(damaged)).toThrowError(
      expect.objectContaining({ code: 'ERR_LSMT_CORRUPT' }),
    );
  });

  test('of another version is refused as unsupported', () => {
    expect(() => decodeLsmtHeader(patched(132, 2))).toThrowError(
      expect.objectContaining({ code: 'ERR_UNSUPPORTED' }),
    );
  });

  test('holds only identities that fit', () => {
    const header = decodeLsmtHeader(bytes);
    expect(() => encodeLsmtHeader({ ...header, uuid: 'nobody' })).toThrowError(RangeError);
    expect(() => encodeLsmtHeader({ ...header, userTag: 'é'.repeat(128) })).toThrowError(RangeError);
    const longest = { ...header, userTag: 'x'.repeat(255) };
    expect(decodeLsmtHeader(encodeLsmtHeader(longest))).toEqual(longest);
  });
});
