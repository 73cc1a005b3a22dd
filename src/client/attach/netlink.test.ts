import { expect, test } from 'vitest';
import { decodeMessages, encodeMessage, NetlinkFamily } from './netlink.ts';

test('a request has the bytes that linux/netlink.h and linux/genetlink.h say', () => {
  const bytes = encodeMessage(0x1f, 3, 1, 7, [
    { type: 2, value: Buffer.from('nbd\0') },
    { type: 7, value: Buffer.from('0102030405', 'hex'), isNested: true },
  ]);
  expect(bytes.toString('hex')).toBe(
    // length, family, REQUEST | ACK, sequence, port; command, version, reserved
    ['28000000', '1f00', '0500', '07000000', '00000000', '03', '01', '0000'].join('') +
      // length, type, value; length, type | NESTED, value, padding
      ['0800', '0200', '6e626400', '0900', '0780', '0102030405', '000000'].join(''),
  );
});

test('answers and acknowledgements come as several messages in one piece', () => {
  const answer = '1c000000 1f00 0000 07000000 00000000 01 01 0000 0800 0100 05000000';
  const failure = '24000000 0200 0000 07000000 00000000 f0ffffff 00000000000000000000000000000000';
  const done = '14000000 0200 0000 07000000 00000000 00000000';
  const bytes = Buffer.from((answer + failure + done).replaceAll(' ', ''), 'hex');
  expect(decodeMessages(bytes)).toEqual([
    { kind: 'answer', attributes: new Map([[1, Buffer.from('05000000', 'hex')]]) },
    { kind: 'acknowledgement', errno: 16 },
    { kind: 'acknowledgement', errno: 0 },
  ]);
  expect(() => decodeMessages(bytes.subarray(0, 30))).toThrow(RangeError);
});

test('this kernel tells its families, and answers what is asked of one', async () => {
  const control = await NetlinkFamily.find('nlctrl', 2);
  const answer = await control?.ask(3, [{ type: 2, value: Buffer.from('nlctrl\0') }]);
  expect(answer?.get(1)?.readUInt16LE(0)).toBe(0x10);
  expect(await NetlinkFamily.find('dadi-no-such', 1)).toBeNull();
  await expect(control?.ask(3, [{ type: 2, value: Buffer.from('dadi-none\0') }])).rejects.toMatchObject({
    code: 'ENOENT',
  });
});
