import { chownSync, mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Client } from 'pg';
import { freePort, run, type StartedProcess, start } from './processes.ts';

/** Where Debian keeps the server's programs. */
const PROGRAMS = '/usr/lib/postgresql/15/bin';
const USER = 'postgres';

/** A real PostgreSQL server on a loopback port. Needs the capabilities `root` and `postgres`. */
export class Postgres {
  readonly #directory: string;
  readonly #port: number;
  #process: StartedProcess;
  #databases = 0;

  private constructor(directory: string, port: number, process: StartedProcess) {
    this.#directory = directory;
    this.#port = port;
    this.#process = process;
  }

  static async start(): Promise<Postgres> {
    const directory = mkdtempSync(join(tmpdir(), 'dadi-postgres-'));
    const data = join(directory, 'data');
    mkdirSync(data);
    const [uid, gid] = (await run('sh', ['-c', `id -u ${USER}; id -g ${USER}`])).stdout
      .split('\n')
      .map(Number);
    for (const path of [directory, data]) chownSync(path, uid ?? 0, gid ?? 0);
    await asUser([`${PROGRAMS}/initdb`, '--auth=trust', '--no-sync', '--encoding=UTF8', '-D', data]);
    const port = await freePort();
    return new Postgres(directory, port, await startServer(directory, port));
  }

  /**
   * The URL of what is a new, empty database to those who are given it, and ends with the server. It is a schema: to
   * make a database, the server copies a thousand files.
   */
  async createDatabase(): Promise<string> {
    const name = `test${++this.#databases}`;
    const url = `postgres://${USER}@127.0.0.1:${this.#port}/${USER}`;
    const client = new Client({ connectionString: url });
    await client.connect();
    await client.query(`CREATE SCHEMA ${name}`);
    await client.end();
    return `${url}?options=-csearch_path=${name}`;
  }

  /** Ends all connections, as a restart or a failover does, and answers again. */
  async restart(): Promise<void> {
    await this.#process.stop();
    this.#process = await startServer(this.#directory, this.#port);
  }

  async stop(): Promise<void> {
    await this.#process.stop();
    rmSync(this.#directory, { recursive: true });
  }
}

function startServer(directory: string, port: number): Promise<StartedProcess> {
  const server = [
    ...[`${PROGRAMS}/postgres`, '-D', join(directory, 'data'), '-p', String(port)],
    ...['-c', 'listen_addresses=127.0.0.1', '-c', `unix_socket_directories=${directory}`, '-c', 'fsync=off'],
  ];
  return start('setpriv', asUserArguments(server), {
    logPath: join(directory, 'log'),
    // SIGTERM would wait until all who are connected leave.
    stopSignal: 'SIGINT',
    readyWhen: async () => {
      await run(`${PROGRAMS}/pg_isready`, ['-h', '127.0.0.1', '-p', String(port), '-q']);
      return true;
    },
  });
}

/** The server refuses to run as root. */
function asUserArguments(command: readonly string[]): string[] {
  return [`--reuid=${USER}`, `--regid=${USER}`, '--clear-groups', '--', ...command];
}

async function asUser(command: readonly string[]): Promise<void> {
  await run('setpriv', asUserArguments(command), { cwd: '/' });
}
