/** Two ways from an image's name to a program that runs out of it, each timed to the program's first output. */
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import type { CleanupStack } from './cleanup.ts';
import { mountPointsUnder } from './mounts.ts';
import { run } from './process.ts';
import { PROGRAM } from './recipe.ts';
import { DADI } from './registries.ts';
import type { CountingRelay } from './relay.ts';
import type { Say } from './steps.ts';

/** Bytes are those that came from the proxy over TCP, headers included. */
export interface StartUp {
  /** Until the root file system was there: mounted, or pulled and unpacked. */
  readonly preparedMs: number;
  readonly firstOutputMs: number;
  readonly bytesFetched: number;
  readonly output: string;
}

export interface StartUpOptions {
  readonly relay: CountingRelay;
  /** Repository and tag at the proxy. */
  readonly image: string;
  /** An empty directory. */
  readonly directory: string;
  readonly say: Say;
  readonly signal: AbortSignal;
}

/** Pulls all of the image with skopeo, unpacks it with umoci, runs the program. */
export async function startInFull({
  relay,
  image,
  directory,
  say,
  signal,
}: StartUpOptions): Promise<StartUp> {
  const layout = `${join(directory, 'layout')}:image`;
  const bundle = join(directory, 'bundle');
  return await timed(relay, signal, async () => {
    say('pulling');
    await run('skopeo', skopeoPull(relay.port, image, layout), { signal });
    say('unpacking');
    await run('umoci', ['unpack', '--image', layout, bundle], { signal });
    return join(bundle, 'rootfs');
  });
}

/** An image that `dadi mount` has mounted. */
export interface LazyRoot {
  readonly startUp: StartUp;
  /** Unmounts; may be called again. */
  unmount(): Promise<void>;
}

/** Mounts the converted image with `dadi mount`, its cache empty, and runs the program. The mount stays. */
export async function startLazily(
  { relay, image, directory, say, signal }: StartUpOptions,
  cleanup: CleanupStack,
): Promise<LazyRoot> {
  const root = join(directory, 'root');
  mkdirSync(root);
  const [node, main] = DADI;
  const runDirectory = ['--run-dir', join(directory, 'run')];
  const unmount = async (...flags: string[]) => {
    if (mountPointsUnder(root).length > 0) await run(node, [main, 'umount', ...runDirectory, ...flags, root]);
  };
  cleanup.defer('unmount the image', () => unmount('--lazy'));
  const startUp = await timed(relay, signal, async () => {
    say('mounting');
    const cache = ['--cache-dir', join(directory, 'cache')];
    const reference = `127.0.0.1:${relay.port}/${image}`;
    await run(node, [main, 'mount', ...cache, ...runDirectory, reference, root], { signal });
    say('running');
    return root;
  });
  return { startUp, unmount };
}

/** Arguments of skopeo for a pull that must not change a byte. */
export function skopeoPull(port: number, image: string, layout: string): readonly string[] {
  const plain = ['--insecure-policy', 'copy', '--quiet', '--src-tls-verify=false', '--preserve-digests'];
  return [...plain, `docker://127.0.0.1:${port}/${image}`, `oci:${layout}`];
}

async function timed(
  relay: CountingRelay,
  signal: AbortSignal,
  prepareRoot: () => Promise<string>,
): Promise<StartUp> {
  const bytesBefore = relay.bytesToClient;
  const startMs = performance.now();
  const root = await prepareRoot();
  const preparedMs = performance.now() - startMs;
  let firstOutputMs = 0;
  const output = await run('chroot', [root, ...PROGRAM], {
    signal,
    environment: { LC_ALL: 'C.UTF-8' },
    onFirstOutput: () => {
      firstOutputMs = performance.now() - startMs;
    },
  });
  if (firstOutputMs === 0) throw new Error(`${PROGRAM.join(' ')} printed nothing`);
  return {
    preparedMs,
    firstOutputMs,
    bytesFetched: relay.bytesToClient - bytesBefore,
    output: output.trim(),
  };
}
