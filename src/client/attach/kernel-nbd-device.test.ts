import { expect, test } from 'vitest';
import {
  connectAttributes,
  disconnectOnCloseAttributes,
  KernelNbdDevice,
  reconnectAttributes,
} from './kernel-nbd-device.ts';
import { encodeAttributes } from './netlink.ts';

const hex = (...parts: string[]): string => parts.join('').replaceAll(' ', '');

test('a device is connected by the attributes that linux/nbd-netlink.h says', () => {
  const bytes = encodeAttributes(
    connectAttributes({
      sizeBytes: 0x1_0000_0200,
      socketFd: 19,
      backend: '/w/a',
      requestTimeoutSeconds: 30,
      reconnectTimeoutSeconds: 86_400,
    }),
  );
  expect(bytes.toString('hex')).toBe(
    hex(
      '0c00 0200 0002000001000000', // size
      '0c00 0300 0002000000000000', // block size
      '0c00 0500 0300000000000000', // server flags: has flags, read-only
      '0c00 0400 1e00000000000000', // time-out
      '0c00 0800 8051010000000000', // dead connection time-out
      '1000 0780 0c00 0180 0800 0100 13000000', // sockets, item, descriptor
      '0900 0a00 2f772f6100 000000', // backend identifier
    ),
  );
});

test('a device gets another connection, and ends with its last user, by its backend identifier', () => {
  expect(encodeAttributes(reconnectAttributes(5, '/w/a', 19)).toString('hex')).toBe(
    hex('0800 0100 05000000', '1000 0780 0c00 0180 0800 0100 13000000', '0900 0a00 2f772f6100 000000'),
  );
  expect(encodeAttributes(disconnectOnCloseAttributes(5, '/w/a')).toString('hex')).toBe(
    hex('0800 0100 05000000', '0c00 0600 0200000000000000', '0900 0a00 2f772f6100 000000'),
  );
});

test('a device that nobody connected is not found', async () => {
  expect(await KernelNbdDevice.find('/no/such/directory')).toBeNull();
});
