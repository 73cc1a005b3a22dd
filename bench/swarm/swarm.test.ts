import { expect, test } from 'vitest';
import type { Costs, HostStep } from './costs.ts';
import { type Scenario, simulate } from './swarm.ts';
import { chunksOf, lengthened, type Trace } from './trace.ts';

const COSTS: Costs = {
  hostSteps: [150, 20, 20, 20, 90].map((daemonMs) => ({ daemonMs, helperMs: daemonMs, besideMs: 10 })),
  ...{ containerDaemonMs: 10, containerMs: 50, aroundMs: 5 },
  ...{ receiveMs: 1, sendMs: 1, peerMs: 0, proxySendMs: 1 },
  ...{ pull: { ms: 10, requests: 5 }, meshPull: { ms: 2, requests: 1 }, heartbeatMs: 1 },
  ...{ joinMs: 1, joinContentMs: 0.1, latencyMs: 0.1, chunkBytes: 250_000 },
};
const TRACE: Trace = {
  blobChunks: [40, 8],
  steps: [
    [
      { blob: 0, first: 0, count: 1 },
      { blob: 1, first: 0, count: 1 },
    ],
    [{ blob: 0, first: 39, count: 1 }],
    [{ blob: 0, first: 4, count: 6 }],
    [{ blob: 1, first: 7, count: 1 }],
  ],
};
const READ_BYTES = chunksOf(TRACE) * COSTS.chunkBytes;
const MESH: Scenario = {
  ...{ hosts: 32, containersPerHost: 2, arrivalMs: 0, trace: TRACE, costs: COSTS },
  ...{ hostBytesPerSecond: 125_000_000, proxies: 1, proxyBytesPerSecond: 125_000_000 },
  ...{ coresPerHost: 4, shared: { cores: 1, parallel: 1 }, isWarm: false, failingPart: 0 },
  mesh: {
    roots: 1,
    settings: { tops: 1, maxFanOut: 4, bytesPerSecondPerChild: 12_500_000, heartbeatMs: 5_000 },
  },
};

const slower = ({ daemonMs, helperMs, besideMs }: HostStep): HostStep => {
  return { daemonMs: 3 * daemonMs, helperMs: 3 * helperMs, besideMs };
};

test('all containers of 32 hosts start, the proxy sends each chunk once, and the same comes out again', async () => {
  const [result, again] = [await simulate(MESH), await simulate(MESH)];
  expect(result).toMatchObject({ failed: 0, unfinished: 0, repairs: 0 });
  expect(result.containerMs).toHaveLength(64);
  expect(result.proxyBytes).toBe(READ_BYTES);
  expect(again).toEqual(result);
});

test('without the mesh each host has all from the proxy, and warm ones have nothing', async () => {
  const [plain, warm] = [
    await simulate({ ...MESH, mesh: null }),
    await simulate({ ...MESH, mesh: null, isWarm: true }),
  ];
  expect(plain.proxyBytes).toBe(32 * READ_BYTES);
  expect(warm.proxyBytes).toBe(0);
  // Two programs on two of four processors; the daemon does one after the other.
  expect(warm.lastMs).toBeCloseTo(2 * COSTS.containerDaemonMs + COSTS.containerMs);
});

test('when hosts fail only their own containers do not start', async () => {
  const { failed, unfinished, containerMs } = await simulate({
    ...MESH,
    arrivalMs: 2_000,
    failingPart: 0.25,
  });
  expect(failed).toBeGreaterThan(0);
  expect(failed).toBeLessThanOrEqual(16);
  expect(unfinished).toBe(0);
  expect(containerMs).toHaveLength(64 - failed);
});

test('hosts that share too few processors run out of patience with each other, and ask the proxy', async () => {
  const { proxyBytes, unfinished } = await simulate({
    ...MESH,
    ...{ coresPerHost: null, shared: { cores: 1, parallel: 1 } },
    costs: { ...COSTS, hostSteps: COSTS.hostSteps.map(slower), receiveMs: 12, sendMs: 12 },
  });
  expect(unfinished).toBe(0);
  expect(proxyBytes).toBeGreaterThan(2 * READ_BYTES);
});

test('a lengthened start reads as many chunks as asked for, each one once', () => {
  const longer = lengthened(TRACE, 25);
  const read = longer.steps.flat().flatMap(({ blob, first, count }) => {
    return Array.from({ length: count }, (_, at) => `${blob} ${first + at}`);
  });
  expect(chunksOf(longer)).toBe(25);
  expect(new Set(read).size).toBe(25);
  expect(longer.blobChunks).toEqual([120, 24]);
});
