import { mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { unmountBelow } from './mounts.ts';
import { NOWHERE } from './nowhere.ts';
import { run, type StartedProcess, start } from './processes.ts';

/** Debian's own: what comes first on PATH may be another client, newer than the daemon. */
const DAEMON = '/usr/sbin/dockerd';
const CLIENT = '/usr/bin/docker';

/** A Docker daemon of our own, with nothing in it. Needs `root` and `docker`. */
export class Dockerd {
  readonly directory: string;
  readonly #process: StartedProcess;

  private constructor(directory: string, process: StartedProcess) {
    this.directory = directory;
    this.#process = process;
  }

  /**
   * Starts it with all its files in `directory`, whose path is short: sockets stand in it.
   *
   * @param settings the content of its daemon.json
   */
  static async start(directory: string, settings: object): Promise<Dockerd> {
    mkdirSync(directory, { recursive: true });
    const config = join(directory, 'daemon.json');
    writeFileSync(config, JSON.stringify(settings));
    // No network of its own: it would change this machine's.
    const network = ['iptables', 'ip6tables', 'ip-forward', 'ip-masq', 'userland-proxy'];
    const started = await start(
      DAEMON,
      [
        ...['--config-file', config, '--host', socketOf(directory), '--pidfile', join(directory, 'pid')],
        ...[
          '--data-root',
          join(directory, 'data'),
          '--exec-root',
          join(directory, 'exec'),
          '--group',
          'root',
        ],
        // Works on any file system, and mounts nothing.
        ...['--storage-driver', 'vfs', '--bridge', 'none', ...network.map((name) => `--${name}=false`)],
      ],
      {
        logPath: join(directory, 'dockerd.log'),
        env: NOWHERE,
        readyTimeoutMs: 120_000,
        readyWhen: async () => {
          await docker(directory, ['version']);
          return true;
        },
      },
    );
    return new Dockerd(directory, started);
  }

  /** Runs `docker ARGS` and resolves to what it prints. Rejects with what it says if it fails. */
  docker(...args: readonly string[]): Promise<string> {
    return docker(this.directory, args);
  }

  /** Stops it and removes all that it has. */
  async remove(): Promise<void> {
    await this.#process.stop();
    await unmountBelow(this.directory);
    rmSync(this.directory, { recursive: true });
  }
}

function socketOf(directory: string): string {
  return `unix://${join(directory, 'docker.sock')}`;
}

async function docker(directory: string, args: readonly string[]): Promise<string> {
  // Neither the settings nor the credentials of who runs the tests.
  const flags = ['--config', join(directory, 'client'), '--host', socketOf(directory)];
  const { stdout } = await run(CLIENT, [...flags, ...args]);
  return stdout.trim();
}
