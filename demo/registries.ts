import { mkdirSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { freePort } from '../test/support/processes.ts';
import { startRegistry } from '../test/support/registry.ts';
import type { CleanupStack } from './cleanup.ts';
import { Service } from './process.ts';

const READY_MS = 20_000;
const MAIN = resolve(import.meta.dirname, '../bin/dadi.mjs');

/** The `dadi` command as its users have it, built from this checkout: program and first argument. */
export const DADI: readonly [string, string] = [process.execPath, MAIN];

interface StartOptions {
  /** Directory of the demo's own; removed at its end. */
  readonly directory: string;
  readonly cleanup: CleanupStack;
  readonly signal: AbortSignal;
}

/** Starts Debian's docker-registry, empty, and returns its port on 127.0.0.1. */
export async function startUpstream({ directory, cleanup }: StartOptions): Promise<number> {
  const registry = await startRegistry({ dir: join(directory, 'upstream') });
  cleanup.defer('stop docker-registry', () => registry.stop());
  return Number(registry.baseUrl.port);
}

/** Starts `dadi proxy` in front of that registry, with an empty data directory, and returns its port. */
export async function startProxy(
  upstreamPort: number,
  { directory, cleanup, signal }: StartOptions,
): Promise<number> {
  const port = await freePort();
  const data = join(directory, 'proxy');
  mkdirSync(data);
  const upstream = `127.0.0.1:${upstreamPort}=http://127.0.0.1:${upstreamPort}`;
  const [node, main] = DADI;
  const service = new Service('dadi proxy', node, [
    main,
    'proxy',
    '--listen',
    `127.0.0.1:${port}`,
    '--admin-listen',
    'off',
    '--data',
    data,
    '--upstream',
    upstream,
  ]);
  cleanup.defer('stop dadi proxy', () => service.stop());
  await service.ready(() => answers(port), READY_MS, signal);
  return port;
}

async function answers(port: number): Promise<boolean> {
  try {
    return (await fetch(`http://127.0.0.1:${port}/v2/`)).ok;
  } catch {
    return false;
  }
}
