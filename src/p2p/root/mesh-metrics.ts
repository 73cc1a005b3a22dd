import { Counter, Gauge, type Registry } from 'prom-client';
import type { MeshRoot } from './mesh-root.ts';

type Counted = readonly [name: string, help: string, read: (root: MeshRoot) => number];

const GAUGES: readonly Counted[] = [
  ['members', 'Hosts in the mesh.', (root) => root.overview().members],
  [
    'trees',
    'Contents that hosts give each other, each with a tree of its own.',
    (root) => root.overview().trees.length,
  ],
  ['seats', 'Hosts in trees, each counted in each of its trees.', (root) => root.overview().seats],
  ['depth', 'Levels of the deepest tree.', (root) => root.overview().depth],
  ['fan_out', 'Children of the host that has most in one tree.', (root) => root.fanOut()],
];

const COUNTERS: readonly Counted[] = [
  ['joins_total', 'Requests of hosts to be taken into trees.', ({ counts }) => counts.joins],
  [
    'suspected_total',
    'Hosts that lost their children because several others complained.',
    ({ counts }) => {
      return counts.suspected;
    },
  ],
  [
    'wrong_bytes_total',
    'Complaints of hosts about bytes that did not match the chunk table.',
    ({ counts }) => {
      return counts.wrongBytes;
    },
  ],
];

/**
 * Adds what there is to count in a root. Labels have few values: no content and no host is one.
 * @param prefix of all names
 */
export function watchMesh(registry: Registry, prefix: string, root: MeshRoot): void {
  const named = (name: string, help: string) => ({
    name: `${prefix}mesh_${name}`,
    help,
    registers: [registry],
  });
  for (const [name, help, read] of GAUGES) {
    new Gauge({
      ...named(name, help),
      collect() {
        this.set(read(root));
      },
    });
  }
  for (const [name, help, read] of COUNTERS) {
    new Counter({
      ...named(name, help),
      collect() {
        this.reset();
        this.inc(read(root));
      },
    });
  }
  new Counter({
    ...named('repairs_total', 'Places that were taken out of trees or changed in them, by why.'),
    labelNames: ['cause'],
    collect() {
      this.reset();
      for (const [cause, count] of Object.entries(root.counts.repairs)) this.inc({ cause }, count);
    },
  });
  new Counter({
    ...named('received_bytes_total', 'Bytes of chunks that hosts say they received, by from whom.'),
    labelNames: ['source'],
    collect() {
      this.reset();
      for (const [source, bytes] of Object.entries(root.counts.received)) this.inc({ source }, bytes);
    },
  });
}
