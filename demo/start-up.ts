/** Two ways from an image's name to a program that runs out of it, each timed to the program's first output. */
import { existsSync, mkdirSync } from 'node:fs';
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

/** Mounts the converted image with `dadi mount`, its cache empty, and runs the program. The mount stays. */
export async function startLazily(
  { relay, image, directory, say, signal }: StartUpOptions,
  cleanup: CleanupStack,
): Promise<StartUp> {
  const root = join(directory, 'root');
  mkdirSync(root);
  const [node, main] = DADI;
  cleanup.defer('unmount the image', () => unmount(root));
  return await timed(relay, signal, async () => {
    say('mounting');
    const cache = join(directory, 'cache');
    await run(node, [main, 'mount', '--cache', cache, `127.0.0.1:${relay.port}/${image}`, root], { signal });
    say('running');
    return root;
  });
}

/** Unmounts with `dadi umount` if something is mounted there. */
export async function unmount(root: string): Promise<void> {
  if (!existsSync(root) || mountPointsUnder(root).length === 0) return;
  const [node, main] = DADI;
  await run(node, [main, 'umount', root]);
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
