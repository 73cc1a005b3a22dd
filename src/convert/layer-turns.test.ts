import { expect, test, vi } from 'vitest';
import { type ImageTurns, LayerTurns } from './layer-turns.ts';

const never = new AbortController().signal;

/** Asks for a turn that ends when it is told to. */
function ask(turns: ImageTurns, name: string, begun: string[], signal = never) {
  const end = Promise.withResolvers<void>();
  const over = turns.run(async () => {
    begun.push(name);
    await end.promise;
  }, signal);
  return { end: () => end.resolve(), over };
}

test('layers of one image come in order, as many at once as there are turns', async () => {
  const onIdle = vi.fn();
  const image = new LayerTurns(2, onIdle).image(() => 0);
  const begun: string[] = [];
  const [a, b, c] = ['a', 'b', 'c'].map((name) => ask(image, name, begun));
  await Promise.resolve();
  expect(begun).toEqual(['a', 'b']);
  b!.end();
  await b!.over;
  await vi.waitFor(() => expect(begun).toEqual(['a', 'b', 'c']));
  expect(onIdle).not.toHaveBeenCalled();
  a!.end();
  c!.end();
  await Promise.all([a!.over, c!.over]);
  expect(onIdle).toHaveBeenCalledTimes(1);
});

test('a small image does not wait until all layers of a large one have had their turn', async () => {
  const turns = new LayerTurns(2, () => {});
  const begun: string[] = [];
  const large = turns.image(() => 0);
  const layers = [1, 2, 3, 4].map((at) => ask(large, `large ${at}`, begun));
  const small = turns.image(() => 0);
  ask(small, 'small 1', begun);
  ask(small, 'small 2', begun);
  layers[0]!.end();
  await layers[0]!.over;
  await vi.waitFor(() => expect(begun).toEqual(['large 1', 'large 2', 'small 1']));
});

test('the more urgent image has the next turn, as soon as it is more urgent', async () => {
  const turns = new LayerTurns(1, () => {});
  const begun: string[] = [];
  const first = ask(
    turns.image(() => 0),
    'first',
    begun,
  );
  ask(
    turns.image(() => 1),
    'pulled',
    begun,
  );
  let priority = 0;
  ask(
    turns.image(() => priority),
    'awaited',
    begun,
  );
  priority = 2;
  first.end();
  await vi.waitFor(() => expect(begun).toEqual(['first', 'awaited']));
});

test('a turn that fails is over', async () => {
  const image = new LayerTurns(1, () => {}).image(() => 0);
  await expect(image.run(() => Promise.reject(new Error('broken')), never)).rejects.toThrow('broken');
  expect(await image.run(async () => 'next', never)).toBe('next');
});

test('who gives up before its turn waits for none, and is not in the way of others', async () => {
  const onIdle = vi.fn();
  const turns = new LayerTurns(1, onIdle);
  const begun: string[] = [];
  const first = ask(
    turns.image(() => 0),
    'first',
    begun,
  );
  const stop = new AbortController();
  const urgent = turns.image(() => 1);
  const given = ['urgent 1', 'urgent 2'].map((name) => ask(urgent, name, begun, stop.signal));
  const last = ask(
    turns.image(() => 0),
    'last',
    begun,
  );
  stop.abort(new Error('enough'));
  for (const { over } of given) await expect(over).rejects.toThrow('enough');
  await expect(urgent.run(async () => 'late', stop.signal)).rejects.toThrow('enough');
  first.end();
  await first.over;
  last.end();
  await last.over;
  expect(begun).toEqual(['first', 'last']);
  expect(onIdle).toHaveBeenCalledTimes(1);
});
