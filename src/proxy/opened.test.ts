import { expect, test } from 'vitest';
import { Opened } from './opened.ts';

test('what was opened last is closed first, once, and a failure keeps nothing else open', async () => {
  const opened = new Opened();
  const closed: string[] = [];
  for (const name of ['store', 'catalog', 'server']) {
    opened.add(async () => {
      closed.push(name);
      if (name !== 'store') throw new Error(`${name} fails`);
    });
  }
  await expect(opened.close()).rejects.toMatchObject({
    errors: [{ message: 'server fails' }, { message: 'catalog fails' }],
  });
  expect(closed).toEqual(['server', 'catalog', 'store']);
  await opened.close();
  expect(closed).toHaveLength(3);
});

test('a single failure is told as it is', async () => {
  const opened = new Opened();
  opened.add(() => Promise.reject(new Error('the disk is full')));
  await expect(opened.close()).rejects.toThrow('the disk is full');
});
