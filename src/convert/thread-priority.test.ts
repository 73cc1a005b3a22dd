import { getPriority } from 'node:os';
import process from 'node:process';
import { Worker } from 'node:worker_threads';
import { expect, test, vi } from 'vitest';
import { threadPriorities } from '../../test/support/thread-priorities.ts';
import { Bell } from './bell.ts';
import type { ThreadData } from './layer-protocol.ts';
import { SharedWork } from './shared-work.ts';

test.skipIf(process.platform !== 'linux')(
  "a layer's thread goes behind all others",
  async () => {
    const own = getPriority(process.pid);
    const lower = own + 3;
    expect(threadPriorities()).not.toContain(lower);
    const workerData: ThreadData = {
      ...{ number: 1, work: new SharedWork().memory, bell: new Bell().memory },
      niceness: lower,
    };
    const worker = new Worker(new URL('./layer-worker.ts', import.meta.url), { workerData });
    await vi.waitFor(() => expect(threadPriorities()).toContain(lower), { timeout: 30_000, interval: 20 });
    expect(getPriority(process.pid)).toBe(own);
    await worker.terminate();
  },
  60_000,
);
