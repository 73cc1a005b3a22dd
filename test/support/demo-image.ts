import { resolve } from 'node:path';
import { type DemoImage, demoImage } from '../../demo/image.ts';
import { withRunLock } from '../../src/client/mount/run-lock.ts';

const CACHE = resolve(import.meta.dirname, '../../.cache');

/** The demo's image. Of test files that want it at once, the first builds it, and the others wait. */
export async function builtDemoImage(signal: AbortSignal): Promise<DemoImage> {
  return withRunLock(CACHE, () => demoImage({ signal, report: () => {} }));
}
