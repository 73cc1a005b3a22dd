import { expect, it } from 'vitest';
import { paxRecord } from '../../test/support/tar-blocks.ts';
import { parsePaxRecords } from './tar-pax.ts';

it('keeps no part of the body that it reads', () => {
  const body = Buffer.concat([paxRecord('path', 'a'), paxRecord('SCHILY.xattr.user.a', 'b')]);
  const { fields, xattrs } = parsePaxRecords(body);
  body.fill(0);
  expect(fields.get('path')?.toString()).toBe('a');
  expect(xattrs.get('user.a')?.toString()).toBe('b');
});
