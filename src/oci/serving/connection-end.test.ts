import { once } from 'node:events';
import { Socket } from 'node:net';
import { expect, test } from 'vitest';
import { onConnectionEnd } from './connection-end.ts';

test('many hear of the end of a connection by one listener, but not who took it back', async () => {
  const socket = new Socket();
  const heard: number[] = [];
  const takeBack = Array.from({ length: 20 }, (_, at) => onConnectionEnd(socket, () => heard.push(at)));
  expect(socket.listenerCount('close')).toBe(1);
  for (const each of takeBack.slice(2)) each();
  socket.destroy();
  await once(socket, 'close');
  expect(heard).toEqual([0, 1]);
});

test('one that has heard of it may take another back', async () => {
  const socket = new Socket();
  const heard: string[] = [];
  onConnectionEnd(socket, () => {
    heard.push('first');
    takeBack();
  });
  const takeBack = onConnectionEnd(socket, () => heard.push('second'));
  socket.destroy();
  await once(socket, 'close');
  expect(heard).toEqual(['first']);
});
