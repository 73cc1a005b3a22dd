/** The servers that bench/proxy.ts compares, each a process of its own with an empty directory. */
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { freePort, type StartedProcess, start } from '../test/support/processes.ts';
import type { ShapedLink } from './shaped-link.ts';

const MAIN = resolve(import.meta.dirname, '../bin/dadi.mjs');
/** Of the clock that /proc counts processor time with. */
const TICKS_PER_SECOND = 100;

/** A server under test. */
export interface Server {
  readonly name: string;
  /** `127.0.0.1:PORT` */
  readonly host: string;
  readonly usage: () => Usage;
  stop(): Promise<void>;
}

export interface Usage {
  /** Since the server's start. */
  readonly cpuSeconds: number;
  readonly residentMib: number;
  readonly peakMib: number;
}

/** Debian's docker-registry; with `remote` in its own proxy mode in front of that host; behind a link if there is one. */
export async function startDockerRegistry(
  name: string,
  remote: string | null,
  link: ShapedLink | null = null,
): Promise<Server> {
  return startServer(name, link?.address ?? '127.0.0.1', (directory, host) => {
    const config = {
      version: '0.1',
      log: { level: 'error', accesslog: { disabled: true } },
      storage: { filesystem: { rootdirectory: join(directory, 'data') } },
      http: { addr: host },
      ...(remote === null ? {} : { proxy: { remoteurl: `http://${remote}` } }),
    };
    const path = join(directory, 'config.yml');
    // JSON is YAML.
    writeFileSync(path, JSON.stringify(config));
    return [...(link?.enter ?? []), 'docker-registry', 'serve', path];
  });
}

/** `dadi proxy`, as `npm run build` made it, in front of a registry. */
export async function startDadi(
  name: string,
  remote: string,
  { convert }: { convert: boolean },
): Promise<Server> {
  return startServer(name, '127.0.0.1', (directory, host) => [
    process.execPath,
    ...[MAIN, 'proxy', '--listen', host, '--admin-listen', 'off', '--data', join(directory, 'data')],
    ...[
      '--upstream',
      `${remote}=http://${remote}`,
      '--log-level',
      'warn',
      ...(convert ? [] : ['--no-convert']),
    ],
  ]);
}

async function startServer(
  name: string,
  address: string,
  commandIn: (directory: string, host: string) => readonly string[],
): Promise<Server> {
  const directory = mkdtempSync(join(tmpdir(), 'dadi-bench-'));
  mkdirSync(join(directory, 'data'));
  const host = `${address}:${await freePort()}`;
  const [program = '', ...args] = commandIn(directory, host);
  const server = await start(program, args, {
    logPath: join(directory, 'log'),
    readyWhen: async () => (await fetch(`http://${host}/v2/`)).ok,
  });
  return {
    name,
    host,
    usage: () => usageOf(server),
    stop: async () => {
      await server.stop();
      rmSync(directory, { recursive: true });
    },
  };
}

function usageOf({ pid }: StartedProcess): Usage {
  const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1]?.split(' ') ?? [];
  // proc(5): utime and stime are the 14th and 15th field, the third stands first here.
  const ticks = Number(fields[11]) + Number(fields[12]);
  const status = readFileSync(`/proc/${pid}/status`, 'utf8');
  const mib = (key: string) => Number(new RegExp(`^${key}:\\s+(\\d+) kB`, 'm').exec(status)?.[1]) / 1024;
  return { cpuSeconds: ticks / TICKS_PER_SECOND, residentMib: mib('VmRSS'), peakMib: mib('VmHWM') };
}
