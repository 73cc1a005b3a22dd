import { setTimeout as sleep } from 'node:timers/promises';
import { z } from 'zod';
import { formatBytes } from '../src/cli/output.ts';
import type { Say } from './steps.ts';

const POLL_MS = 200;
const PATIENCE_MS = 10 * 60_000;

const statusSchema = z.object({
  state: z.enum(['queued', 'running', 'done', 'failed']),
  layersDone: z.number(),
  layersTotal: z.number(),
  bytesDone: z.number(),
  bytesTotal: z.number(),
  converted: z.object({ digest: z.string(), mediaType: z.string() }).nullable(),
  error: z.string().nullable(),
});

const manifestSchema = z.object({ layers: z.array(z.object({ size: z.number() })) });

/**
 * Waits until the proxy has converted an image, saying how far it is.
 * @param digest of the original manifest
 * @returns digest of the converted manifest
 */
export async function conversionOf(
  digest: string,
  proxy: string,
  say: Say,
  signal: AbortSignal,
): Promise<string> {
  const deadline = performance.now() + PATIENCE_MS;
  while (performance.now() < deadline) {
    const status = statusSchema.parse(await getJson(`${proxy}/dadi/v1/conversions/${digest}`, signal));
    if (status.state === 'failed') throw new Error(`the conversion failed: ${status.error}`);
    if (status.state === 'done' && status.converted !== null) return status.converted.digest;
    const share =
      status.bytesTotal > 0 ? ` ${Math.round((100 * status.bytesDone) / status.bytesTotal)} %,` : '';
    say(
      `${status.state},${share} ${status.layersDone} of ${status.layersTotal} layers, ${formatBytes(status.bytesDone)}`,
    );
    await sleep(POLL_MS, undefined, { signal });
  }
  throw new Error(`the conversion is not done after ${PATIENCE_MS / 60_000} minutes`);
}

/** @param reference tag or digest
 * @returns sum of the layers' sizes as a registry holds them, in bytes */
export async function layerBytes(
  registry: string,
  repository: string,
  reference: string,
  signal: AbortSignal,
): Promise<number> {
  const manifest = await getJson(`${registry}/v2/${repository}/manifests/${reference}`, signal);
  return manifestSchema.parse(manifest).layers.reduce((sum, layer) => sum + layer.size, 0);
}

async function getJson(url: string, signal: AbortSignal): Promise<unknown> {
  const accept = 'application/json, application/vnd.oci.image.manifest.v1+json';
  const response = await fetch(url, { signal, headers: { accept } });
  if (!response.ok) throw new Error(`${url}: ${response.status} ${await response.text()}`);
  return response.json();
}
