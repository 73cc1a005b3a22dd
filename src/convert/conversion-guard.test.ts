import { once } from 'node:events';
import { tmpdir } from 'node:os';
import { expect, test } from 'vitest';
import { withinLimits } from './conversion-guard.ts';
import { type ConversionLimits, DEFAULT_LIMITS } from './layer-limits.ts';

function guarded<T>(
  limits: Partial<ConversionLimits>,
  work: (signal: AbortSignal) => Promise<T>,
  signal = new AbortController().signal,
): Promise<T> {
  return withinLimits({ limits: { ...DEFAULT_LIMITS, ...limits }, scratch: tmpdir(), signal }, work);
}

/** Ends when told to, with an error of its own. */
async function obedient(signal: AbortSignal): Promise<never> {
  await once(signal, 'abort');
  throw new Error('the layer was given up');
}

test('a conversion that takes too long is told to end, and says so', async () => {
  await expect(guarded({ imageSeconds: 0.05 }, obedient)).rejects.toThrow(
    expect.objectContaining({
      code: 'ERR_CONVERT_TIMEOUT',
      message: expect.stringMatching(/0\.05 s.*imageSeconds/),
    }),
  );
});

test('a conversion does not begin while there is little space left', async () => {
  let begun = false;
  const work = async () => {
    begun = true;
  };
  await expect(guarded({ minFreeBytes: Number.MAX_SAFE_INTEGER }, work)).rejects.toThrow(
    expect.objectContaining({
      code: 'ERR_STORE_FULL',
      message: expect.stringMatching(/bytes left.*minFreeBytes/),
    }),
  );
  expect(begun).toBe(false);
});

test('a conversion that fills the disk is told to end', async () => {
  const limits: { -readonly [name in keyof ConversionLimits]: number } = { ...DEFAULT_LIMITS };
  const signal = new AbortController().signal;
  const done = withinLimits({ limits, scratch: tmpdir(), signal }, (until) => {
    limits.minFreeBytes = Number.MAX_SAFE_INTEGER;
    return obedient(until);
  });
  await expect(done).rejects.toThrow(expect.objectContaining({ code: 'ERR_STORE_FULL' }));
});

test('a stop is passed on and stays what it is; so do results and errors', async () => {
  const stop = new AbortController();
  const stopped = guarded({}, obedient, stop.signal);
  setTimeout(() => stop.abort(new Error('stopped')), 10);
  await expect(stopped).rejects.toThrow('the layer was given up');
  expect(await guarded({}, async () => 5)).toBe(5);
});
