import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { busyboxImage } from './support/busybox-image.ts';
import { requireCapability } from './support/capabilities.ts';
import { type Fault, FaultyRelay } from './support/faulty-relay.ts';
import { NodeStack, PAUSE, scratchDirectory } from './support/node-stack.ts';
import { diffTrees } from './support/tree.ts';

const canRun = requireCapability('root', 'containerd', 'runc', 'registry', 'fuse', 'erofs', 'busybox');

const CONTAINERS = 50;
const READERS = 3;
const SNAPSHOTTER = ['--snapshotter', 'dadi'];
/** All that is in the image and not the pod's. */
const HASH_ALL = 'cd / && find bin data etc/base etc/name etc/d -type f -exec sha256sum {} + | sort';
const shell = (script: string) => ['/bin/sh', '-c', script];

type Name = 'lib/light:1' | 'lib/large:1';
const IMAGES = {
  'lib/light:1': busyboxImage(1),
  'lib/large:1': busyboxImage(2, { randomFiles: 24, randomBytes: 600_000 }),
} satisfies Record<Name, unknown>;

let stack: NodeStack<Name>;
let pod: string;

/** In the order in which requests have them, again and again; most have none. */
const FAULTS: readonly (Fault | null)[] = [
  null,
  { kind: 'cut', afterBytes: 100_000 },
  null,
  { kind: 'flip', atByte: 70_000 },
  { kind: 'status', status: 503 },
  null,
  { kind: 'cut', afterBytes: 0 },
  { kind: 'flip', atByte: 3 },
  null,
];
/** One request stalls: that costs the daemon its patience. */
const STALLS_AT = 12;
const STALL: Fault = { kind: 'stall', afterBytes: 50_000 };

describe.skipIf(!canRun)('many containers of lazy images', () => {
  beforeAll(async () => {
    stack = await NodeStack.start({ scratch: scratchDirectory(), images: IMAGES });
    await stack.convert(PAUSE, 'lib/light:1', 'lib/large:1');
    pod = await stack.containerd.runPod();
  });

  afterAll(async () => {
    await stack?.remove();
  });

  test(`${CONTAINERS} of one image start and end at once`, async () => {
    const reference = stack.reference('lib/light:1');
    await stack.containerd.pull(reference);
    // Not in a pod: containerd keeps one process for all containers of a pod, which starts them one after the other.
    const outputs = await Promise.all(
      Array.from({ length: CONTAINERS }, (_, at) =>
        stack.containerd.ctr(
          'run',
          '--rm',
          ...SNAPSHOTTER,
          reference,
          `light-${at}`,
          '/bin/cat',
          '/etc/name',
        ),
      ),
    );
    expect(outputs).toEqual(Array.from({ length: CONTAINERS }, () => 'top 1\n'));
    expect(stack.node.mounts()).toHaveLength(2);
  });

  test('whatever befalls the connections to the proxy, containers read what a full unpack has', async () => {
    const name = 'lib/large:1';
    const reference = stack.reference(name);
    const full = [...['--hosts-dir', join(stack.scratch, 'hosts')], '--snapshotter', 'overlayfs'];
    await stack.containerd.ctr('images', 'pull', ...full, reference);
    const expected = await stack.treeOf('overlayfs', stack.chainId(name));

    const relay = await FaultyRelay.start(stack.proxy.url);
    const met = new Set<Fault['kind']>();
    let requests = 0;
    relay.fault = () => {
      const at = requests++;
      const fault = at === STALLS_AT ? STALL : (FAULTS[at % FAULTS.length] ?? null);
      if (fault !== null) met.add(fault.kind);
      return fault;
    };
    await stack.node.stop();
    await stack.startNode({ proxies: [relay.url] });
    await stack.containerd.pull(reference);
    const [tree, ...results] = await Promise.all([
      stack.treeOf('dadi', stack.chainId(name)),
      ...Array.from({ length: READERS }, () => stack.containerd.run(pod, reference, ...shell(HASH_ALL))),
    ]);
    expect(diffTrees(expected, tree)).toEqual([]);
    const hashes = expected
      .filter(({ type }) => type === 'file')
      .map(({ digest, path }) => `${digest}  ${path}\n`)
      .sort()
      .join('');
    expect(results).toEqual(results.map(() => ({ exitCode: 0, output: hashes })));
    expect(met).toEqual(new Set(['cut', 'flip', 'status', 'stall']));
    await relay.stop();
  });
});
