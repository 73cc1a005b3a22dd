import { resolve } from 'node:path';
import { defineConfig } from 'vitest/config';

/**
 * Of more than two cores' worth: tests wait, for other processes and for time-outs. All projects share them. Vitest
 * begins with those of the first project by name, and of each with the largest files: so the long ones come first, and
 * at the end, when cores would be idle, there are many short ones.
 */
const maxWorkers = 3;

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
          hookTimeout: 60_000,
          maxWorkers,
          // Hundreds of small files: to load all modules anew for each takes longer than most of the tests. So each test
          // gives back what it changed, and no spy outlives the test that set it.
          isolate: false,
          restoreMocks: true,
          unstubEnvs: true,
        },
      },
      {
        test: {
          name: 'proxy',
          include: PROXY,
          testTimeout: 300_000,
          hookTimeout: 600_000,
          maxWorkers,
        },
      },
      {
        // Real mounts, and programs that work.
        test: {
          name: 'machine',
          include: ['test/**/*.test.ts'],
          exclude: [...PROXY, 'test/support/**'],
          testTimeout: 300_000,
          hookTimeout: 600_000,
          maxWorkers,
        },
      },
    ],
  },
});
