import { resolve } from 'node:path';
import { defineConfig } from 'vitest/config';

/** Of more than two cores' worth: these tests mostly wait, for each other's processes and for time-outs. */
const WORKERS = 3;

/** The proxy as its clients and operators have it: real registries, clients and databases, each test with its own. */
const PROXY = [
  'test/distribution-spec/**/*.test.ts',
  'test/{access,cache,clients.*,crash,postgres,proxy,proxy-tls,registry-client,replicas,service,upstreams}.test.ts',
];

export default defineConfig({
  test: {
    pool: 'forks',
    // Tests start `dadi` hundreds of times: each start would strip the types of all its modules again.
    env: { NODE_COMPILE_CACHE: resolve(import.meta.dirname, '.cache/compiled') },
    projects: [
      {
        test: {
          name: 'unit',
          include: ['src/**/*.test.ts', 'test/support/**/*.test.ts', 'bench/**/*.test.ts'],
          testTimeout: 60_000,
          maxWorkers: WORKERS,
          sequence: { groupOrder: 0 },
        },
      },
      {
        test: {
          name: 'proxy',
          include: PROXY,
          testTimeout: 300_000,
          hookTimeout: 600_000,
          maxWorkers: WORKERS,
          sequence: { groupOrder: 0 },
        },
      },
      {
        // Real mounts, and programs that work: a file for each of two cores.
        test: {
          name: 'machine',
          include: ['test/**/*.test.ts'],
          exclude: [...PROXY, 'test/support/**'],
          testTimeout: 300_000,
          hookTimeout: 600_000,
          maxWorkers: 2,
          sequence: { groupOrder: 1 },
        },
      },
    ],
  },
});
