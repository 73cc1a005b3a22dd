import { setTimeout as sleep } from 'node:timers/promises';
import { type Digest, digestOf } from '../../src/oci/digest.ts';
import { type ImageManifest, parseManifest } from '../../src/oci/manifest.ts';

const WAIT_SECONDS = 20;
/** After an answer that came at once. */
const PAUSE_MS = 10;
const PATIENCE_MS = 600_000;
const UNDER_WAY: ReadonlySet<string> = new Set(['queued', 'running']);

/** Of one layer. */
interface ConvertedLayer {
  readonly digest: Digest;
  readonly chunkTable: Digest;
  readonly size: number;
}

interface ConversionAnswer {
  readonly state: string;
  /** Bottom first; whole once it is done. */
  readonly chains: readonly { readonly converted: ConvertedLayer }[];
}

/** Pulls an image's manifest, tag 1, through a proxy. @param registry as the proxy names it */
export async function pullManifest(
  proxyUrl: string,
  registry: string,
  repository: string,
): Promise<{ readonly manifest: ImageManifest; readonly digest: Digest }> {
  const response = await fetch(`${proxyUrl}/v2/${repository}/manifests/1?ns=${registry}`);
  const bytes = Buffer.from(await response.arrayBuffer());
  const manifest = parseManifest(bytes, response.headers.get('content-type') ?? '');
  if (manifest.kind !== 'image') throw new Error(`${repository} is no image`);
  return { manifest, digest: digestOf(bytes) };
}

/** Asks for an image as a node does, until the proxy has converted it: its layers, bottom first. */
export async function converted(
  proxyUrl: string,
  registry: string,
  repository: string,
  digest: Digest,
): Promise<readonly ConvertedLayer[]> {
  const query = new URLSearchParams({ repository, ns: registry, wait: `${WAIT_SECONDS}` });
  const deadlineMs = performance.now() + PATIENCE_MS;
  for (;;) {
    const answer = await fetch(`${proxyUrl}/dadi/v1/images/${digest}?${query}`);
    const text = await answer.text();
    const { state, chains } = JSON.parse(text) as ConversionAnswer;
    if (state === 'done') return chains.map((chain) => chain.converted);
    if (!UNDER_WAY.has(state) || performance.now() > deadlineMs) {
      throw new Error(`${repository} is not converted: ${text}`);
    }
    await sleep(PAUSE_MS);
  }
}
