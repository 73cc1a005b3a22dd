import { once } from 'node:events';
import { mkdirSync, writeFileSync } from 'node:fs';
import { type AddressInfo, createServer } from 'node:net';
import { join, resolve } from 'node:path';
import type { CleanupStack } from './cleanup.ts';
import { Service } from './process.ts';

const READY_MS = 20_000;
const MAIN = resolve(import.meta.dirname, '../src/cli/main.ts');

/** The `dadi` command as this checkout has it: program and first argument. */
export const DADI: readonly [string, string] = [process.execPath, MAIN];

interface StartOptions {
  /** Directory of the demo's own; removed at its end. */
  readonly directory: string;
  readonly cleanup: CleanupStack;
  readonly signal: AbortSignal;
}

/** Starts Debian's docker-registry, empty, and returns its port on 127.0.0.1. */
export async function startUpstream({ directory, cleanup, signal }: StartOptions): Promise<number> {
  const port = await freePort();
  const config = join(directory, 'upstream.yml');
  writeFileSync(
    config,
    `version: 0.1
log: {level: error}
storage: {filesystem: {rootdirectory: ${JSON.stringify(join(directory, 'upstream'))}}}
http: {addr: "127.0.0.1:${port}"}
`,
  );
  const service = new Service('docker-registry', 'docker-registry', ['serve', config], {
    environment: { OTEL_TRACES_EXPORTER: 'none' },
  });
  cleanup.defer('stop docker-registry', () => service.stop());
  await service.ready(() => answers(port), READY_MS, signal);
  return port;
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
    main, 'proxy', '--listen', `127.0.0.1:${port}`, '--data', data, '--upstream', upstream,
  ]); // biome-ignore format: an option and its value side by side
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

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, 'close');
  return port;
}
