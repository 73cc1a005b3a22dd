import { once } from 'node:events';
import { Socket } from 'node:net';
import { expect, test } from 'vitest';
import { BufferSource } from '../../format/buffer-source.ts';
import { NbdConnection } from '../nbd/nbd-connection.ts';
import { socketPair } from './socket-pair.ts';

/** The kernel's place. */
function other({ otherFd }: { otherFd: number }): Socket {
  return new Socket({ fd: otherFd, readable: true, writable: true });
}

function request(type: number, cookie: number, offset: number, length: number): Buffer {
  const bytes = Buffer.alloc(28);
  bytes.writeUInt32BE(0x25609513, 0);
  bytes.writeUInt16BE(type, 6);
  bytes.writeBigUInt64BE(BigInt(cookie), 8);
  bytes.writeBigUInt64BE(BigInt(offset), 16);
  bytes.writeUInt32BE(length, 24);
  return bytes;
}

test('the other end may begin with reads, as the kernel does, and say goodbye', async () => {
  const pair = socketPair();
  const device = new BufferSource(Buffer.from('what the device holds'));
  const serving = new NbdConnection(pair.socket, { device }).run({ isNegotiated: true });
  const kernel = other(pair);
  kernel.write(request(0, 7, 9, 6));
  kernel.write(request(2, 0, 0, 0));
  const bytes = Buffer.concat(await kernel.toArray());
  expect(bytes.toString('hex', 0, 16)).toBe('67446698000000000000000000000007');
  expect(bytes.toString('latin1', 16)).toBe('device');
  expect(await serving).toBe('goodbye');
});

test('the other end that just goes is lost', async () => {
  const pair = socketPair();
  const serving = new NbdConnection(pair.socket, { device: new BufferSource(Buffer.alloc(10)) }).run({
    isNegotiated: true,
  });
  const kernel = other(pair);
  kernel.destroy();
  await once(kernel, 'close');
  expect(await serving).toBe('lost');
});
