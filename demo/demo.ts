/** The whole way of an image: from a real registry, through the proxy, to a lazily mounted file system that runs. */
import { mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import process from 'node:process';
import { parseArgs } from 'node:util';
import { formatBytes, printJson } from '../src/cli/output.ts';
import { CleanupStack } from './cleanup.ts';
import { conversionOf, layerBytes } from './conversion.ts';
import { type DemoImage, demoImage } from './image.ts';
import { mountPointsUnder } from './mounts.ts';
import { run } from './process.ts';
import { startProxy, startUpstream } from './registries.ts';
import { CountingRelay } from './relay.ts';
import { skopeoPull, startInFull, startLazily } from './start-up.ts';
import { Steps } from './steps.ts';
import { type Results, ratios, resultTable } from './table.ts';

const REPOSITORY = 'demo/python';
const TAG = '1';
const IMAGE = `${REPOSITORY}:${TAG}`;
/** Under which the proxy shows the converted image. */
const CONVERTED_TAG = `${TAG}_obd`;
const EXIT_BY_SIGNAL = { SIGINT: 130, SIGTERM: 143, SIGHUP: 129 } as const;

const { values: flags } = parseArgs({
  options: {
    json: { type: 'boolean', default: false },
    /** Another image in the place of the demo's: a layout as `demoImage` makes it, with PROGRAM in it. */
    image: { type: 'string' },
  },
});
const interruption = new AbortController();
for (const [name, exitCode] of Object.entries(EXIT_BY_SIGNAL)) {
  process.on(name, () => {
    process.exitCode = exitCode;
    interruption.abort(new Error(`interrupted (${name}), cleaning up`));
  });
}

// `npm run demo | head`, or a mistake of ours: what was started must still be ended.
for (const stream of [process.stdout, process.stderr]) {
  stream.on('error', (error) => interruption.abort(error));
}
process.on('uncaughtException', (error) => interruption.abort(error));

const cleanup = new CleanupStack();
try {
  const results = await demonstrate(cleanup, interruption.signal);
  await cleanup.close();
  if (flags.json) printJson({ ...results, ratios: ratios(results) });
  else console.log(`\n${resultTable(results)}`);
} catch (error) {
  console.error(error instanceof Error ? error.message : error);
  process.exitCode ||= 1;
  await cleanup.close();
}

async function demonstrate(cleanup: CleanupStack, signal: AbortSignal): Promise<Results> {
  const steps = new Steps();
  const image = await steps.step('image', async (say) => {
    const built =
      flags.image === undefined ? await demoImage({ signal, report: say }) : readDemoImage(flags.image);
    const bytes = built.layers.reduce((sum, layer) => sum + layer.tarBytes, 0);
    return [{ ...built, bytes }, `${built.layers.length} layers, ${formatBytes(bytes)} unpacked`];
  });

  await steps.step('build', async () => {
    const project = join(import.meta.dirname, '..');
    await run(join(project, 'node_modules/.bin/tsc'), ['-p', join(project, 'tsconfig.build.json')], {
      signal,
    });
    return [undefined, 'the dadi command, from this checkout'];
  });

  const directory = mkdtempSync(join(tmpdir(), 'dadi-demo-'));
  cleanup.defer(`remove ${directory}`, () => removeTree(directory));

  const upstreamPort = await steps.step('upstream', async (say) => {
    const port = await startUpstream({ directory, cleanup, signal });
    say('pushing the image');
    const push = ['--insecure-policy', 'copy', '--quiet', '--dest-tls-verify=false', '--preserve-digests'];
    await run('skopeo', [...push, `oci:${image.layout}:latest`, `docker://127.0.0.1:${port}/${IMAGE}`], {
      signal,
    });
    return [port, `docker-registry at 127.0.0.1:${port} holds ${IMAGE}`];
  });
  const upstream = `http://127.0.0.1:${upstreamPort}`;
  const upstreamDigest = await digestAt(upstream, signal);
  const compressedBytes = await layerBytes(upstream, REPOSITORY, upstreamDigest, signal);

  const { proxyPort, relay } = await steps.step('proxy', async () => {
    const proxyPort = await startProxy(upstreamPort, { directory, cleanup, signal });
    const relay = await CountingRelay.open(proxyPort);
    cleanup.defer('close the counting relay', () => relay.close());
    return [{ proxyPort, relay }, `dadi proxy at 127.0.0.1:${proxyPort}`];
  });
  const proxy = `http://127.0.0.1:${proxyPort}`;

  const pullStartMs = performance.now();
  const firstPull = await steps.step('pull', async () => {
    await run('skopeo', skopeoPull(proxyPort, IMAGE, `${join(directory, 'pulled')}:image`), { signal });
    const digest = layoutDigest(join(directory, 'pulled'));
    if (digest !== upstreamDigest)
      throw new Error(`the proxy gave ${digest}, upstream has ${upstreamDigest}`);
    const ms = performance.now() - pullStartMs;
    return [{ digest, ms }, `skopeo, ${formatBytes(compressedBytes)}, same digest as upstream`];
  });

  const conversion = await steps.step('conversion', async (say) => {
    const digest = await conversionOf(upstreamDigest, proxy, say, signal);
    const ms = performance.now() - pullStartMs;
    const bytes = await layerBytes(proxy, REPOSITORY, CONVERTED_TAG, signal);
    return [{ digest, bytes, ms }, `${formatBytes(bytes)}, begun by the pull`];
  });

  const startUp = (name: string, say: (text: string) => void) => {
    const own = join(directory, name);
    mkdirSync(own);
    return { relay, image: IMAGE, directory: own, say, signal };
  };
  const inFull = await steps.step('in full', async (say) => {
    const measured = await startInFull(startUp('in-full', say));
    return [measured, measured.output];
  });
  const lazily = await steps.step('lazily', async (say) => {
    const lazy = await startLazily(startUp('lazily', say), cleanup);
    return [lazy, lazy.startUp.output];
  });
  await steps.step('unmount', async () => [await lazily.unmount(), 'dadi umount']);

  const { layers, bytes: uncompressedBytes } = image;
  return {
    image: { digest: upstreamDigest, layers: layers.length, compressedBytes, uncompressedBytes },
    firstPull,
    conversion,
    inFull,
    lazily: lazily.startUp,
  };
}

function readDemoImage(layout: string): DemoImage {
  return { layout, layers: JSON.parse(readFileSync(join(layout, 'layers.json'), 'utf8')) };
}

async function digestAt(registry: string, signal: AbortSignal): Promise<string> {
  const url = `${registry}/v2/${REPOSITORY}/manifests/${TAG}`;
  const accept = 'application/vnd.oci.image.manifest.v1+json';
  const response = await fetch(url, { method: 'HEAD', signal, headers: { accept } });
  const digest = response.headers.get('docker-content-digest');
  if (!response.ok || digest === null) throw new Error(`${url}: ${response.status}, digest ${digest}`);
  return digest;
}

/** The digest of the only manifest in an OCI image layout. */
function layoutDigest(layout: string): string {
  const index = JSON.parse(readFileSync(join(layout, 'index.json'), 'utf8')) as {
    manifests: { digest: string }[];
  };
  return index.manifests[0]?.digest ?? 'nothing';
}

/** Removes a directory; a mount that a failed command left in it is taken away first, never entered. */
async function removeTree(directory: string): Promise<void> {
  for (const point of mountPointsUnder(directory)) await run('umount', ['--lazy', point]);
  rmSync(directory, { recursive: true, force: true });
}
