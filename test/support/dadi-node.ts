import { mkdirSync, readFileSync, realpathSync, rmSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import process from 'node:process';
import { SOURCES_MAIN } from './dadi-main.ts';
import { run, type StartedProcess, start } from './processes.ts';

/** Many may start at once, on few processors. */
const READY_MS = 180_000;

export interface DadiNodeOptions {
  /** Takes all its files; its path is short, since sockets stand in it. */
  readonly directory: string;
  /** URLs of dadi proxies, in the order in which they are asked. */
  readonly proxies: readonly string[];
  /** Further keys of its configuration. */
  readonly config?: object;
  /** Put before its command: to run it in a network namespace. */
  readonly enter?: readonly string[];
  /** The program: out of the sources by default. */
  readonly main?: string;
}

/** A `dadi node` in a process of its own, that can be killed and started again. Needs `root` and what mounting needs. */
export class DadiNode {
  readonly directory: string;
  readonly #config: object;
  readonly #configPath: string;
  readonly #enter: readonly string[];
  readonly #main: string;
  #process: StartedProcess | null = null;

  private constructor(directory: string, config: object, enter: readonly string[], main: string) {
    this.directory = directory;
    this.#config = config;
    this.#enter = enter;
    this.#main = main;
    this.#configPath = join(directory, 'node.json');
  }

  static async start(options: DadiNodeOptions): Promise<DadiNode> {
    const { directory, proxies, config = {}, enter = [], main = SOURCES_MAIN } = options;
    const node = new DadiNode(directory, { proxies, ...config }, enter, main);
    mkdirSync(directory, { recursive: true });
    await node.start();
    return node;
  }

  /** Starts it again, with what it had on disk. `changed` takes the place of keys of the configuration, this once. */
  async start(changed: object = {}): Promise<void> {
    const stateDirectory = join(this.directory, 'state');
    const own = { stateDirectory, runDirectory: this.runDirectory, mirror: null };
    // JSON is YAML.
    writeFileSync(this.#configPath, JSON.stringify({ ...own, ...this.#config, ...changed }));
    const command = [...this.#enter, process.execPath, this.#main, 'node', '--config', this.#configPath];
    this.#process = await start(command[0]!, command.slice(1), {
      logPath: this.logPath,
      readyTimeoutMs: READY_MS,
      readyWhen: () => accepts(this.socketPath),
    });
  }

  /** Where containerd finds the snapshotter. */
  get socketPath(): string {
    return join(this.runDirectory, 'snapshotter.sock');
  }

  /** Of sockets and mounts. */
  get runDirectory(): string {
    return join(this.directory, 'r');
  }

  get logPath(): string {
    return join(this.directory, 'node.log');
  }

  get pid(): number {
    if (this.#process === null) throw new Error('the node daemon is stopped');
    return this.#process.pid;
  }

  get isRunning(): boolean {
    return this.#process !== null;
  }

  /** What it logged, as objects. */
  logged(): Record<string, unknown>[] {
    const lines = readFileSync(this.logPath, 'utf8').split('\n');
    return lines.filter((line) => line.startsWith('{')).map((line) => JSON.parse(line));
  }

  /** Directories on which it has mounted images now, in the order in which they were mounted. */
  mounts(): string[] {
    const directory = `${realpathSync(this.runDirectory)}/`;
    return mountPoints('erofs').filter((path) => path.startsWith(directory));
  }

  /** SIGTERM: mounts stay. */
  async stop(): Promise<void> {
    const running = this.#process;
    this.#process = null;
    await running?.stop();
  }

  /** SIGKILL: it has no time for anything. */
  async kill(): Promise<void> {
    const running = this.#process;
    if (running === null) return;
    this.#process = null;
    process.kill(running.pid, 'SIGKILL');
    await running.ended;
  }

  /** Takes everything down, also what an earlier one has left. */
  async remove(): Promise<void> {
    await this.stop();
    await run(process.execPath, [this.#main, 'node', 'stop', '--force', '--config', this.#configPath]);
    rmSync(this.directory, { recursive: true });
  }
}

/** Where file systems of a type are mounted. */
function mountPoints(fsType: string): string[] {
  // proc(5), "mounts": white space is written in octal, and does not occur in paths of tests.
  return readFileSync('/proc/self/mounts', 'utf8')
    .split('\n')
    .map((line) => line.split(' '))
    .filter(([, , type]) => type === fsType)
    .map(([, path = '']) => path);
}

function accepts(socketPath: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(socketPath);
    socket.once('connect', () => {
      socket.destroy();
      resolve(true);
    });
    socket.once('error', () => resolve(false));
  });
}
