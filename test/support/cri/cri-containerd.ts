import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { NOWHERE } from '../nowhere.ts';
import { run, type StartedProcess, start } from '../processes.ts';
import {
  type ContainerConfig,
  type Credentials,
  CriClient,
  type CriImage,
  type PodConfig,
} from './cri-client.ts';

export interface CriContainerdOptions {
  /** All its files stand there; the path is short, since sockets do too. */
  readonly directory: string;
  /** Of hosts.toml files, as `writeHosts` makes it. */
  readonly hostsDirectory: string;
  /** What holds a pod's namespaces, as it is named in a registry of those. */
  readonly pauseImage: string;
  readonly snapshotter: 'overlayfs' | 'dadi';
  /** Where the snapshotter `dadi` listens. */
  readonly dadiSocketPath?: string;
}

export interface ContainerResult {
  readonly exitCode: number;
  /** Standard output and standard error in the order in which they were written. */
  readonly output: string;
}

export interface RunningContainer {
  readonly id: string;
  /** Standard output and standard error so far. */
  output(): string;
  /** Runs a program in it; at most a minute. */
  exec(...command: string[]): Promise<ContainerResult>;
  /** Resolves when it has ended by itself. */
  ended(): Promise<ContainerResult>;
  /** Kills it if it runs. */
  remove(): Promise<void>;
}

/** Where images and containers of the kubelet stand. */
const NAMESPACE = 'k8s.io';
const POLL_MS = 200;
const EXEC_SECONDS = 60;
const HOST_NETWORK = { securityContext: { namespaceOptions: { network: 'NODE' } } } as const;

/**
 * A containerd of our own as Kubernetes has it, with runc and with pods on the host's network. Needs `root`,
 * `containerd` and `runc`.
 */
export class CriContainerd {
  readonly #options: CriContainerdOptions;
  readonly #pods = new Map<string, PodConfig>();
  #running: { readonly process: StartedProcess; readonly client: CriClient } | null = null;
  #made = 0;

  private constructor(options: CriContainerdOptions) {
    this.#options = options;
  }

  static async start(options: CriContainerdOptions): Promise<CriContainerd> {
    const containerd = new CriContainerd(options);
    mkdirSync(join(options.directory, 'logs'), { recursive: true });
    await containerd.start();
    return containerd;
  }

  /** Starts it again after {@link CriContainerd.stop}: with what it had. */
  async start(): Promise<void> {
    const { directory } = this.#options;
    const configPath = join(directory, 'config.toml');
    writeFileSync(configPath, configOf(this.#options));
    const client = new CriClient(this.#socketPath);
    try {
      const process = await start('containerd', ['--config', configPath], {
        logPath: join(directory, 'containerd.log'),
        env: NOWHERE,
        readyWhen: async () => {
          const { status } = await client.call('Status', {});
          return status.conditions.some(({ type, status }) => type === 'RuntimeReady' && status);
        },
      });
      this.#running = { process, client };
    } catch (error) {
      client.close();
      throw error;
    }
  }

  get cri(): CriClient {
    if (this.#running === null) throw new Error('containerd is stopped');
    return this.#running.client;
  }

  get logPath(): string {
    return join(this.#options.directory, 'containerd.log');
  }

  /** Pulls an image as the kubelet does. */
  async pull(image: string, auth?: Credentials): Promise<void> {
    await this.cri.call('PullImage', { image: { image }, ...(auth === undefined ? {} : { auth }) });
  }

  async imageStatus(image: string): Promise<CriImage | null> {
    return (await this.cri.call('ImageStatus', { image: { image } })).image;
  }

  async removeImage(image: string): Promise<void> {
    await this.cri.call('RemoveImage', { image: { image } });
  }

  /** @returns the pod's ID */
  async runPod(): Promise<string> {
    const name = `pod-${++this.#made}`;
    const logDirectory = join(this.#options.directory, 'logs', name);
    const config = { metadata: { name, uid: name, namespace: 'default' }, logDirectory, linux: HOST_NETWORK };
    const { podSandboxId } = await this.cri.call('RunPodSandbox', { config });
    this.#pods.set(podSandboxId, config);
    return podSandboxId;
  }

  /** Ends all its containers too. */
  async removePod(podSandboxId: string): Promise<void> {
    await this.cri.call('StopPodSandbox', { podSandboxId });
    await this.cri.call('RemovePodSandbox', { podSandboxId });
    this.#pods.delete(podSandboxId);
  }

  /** Creates and starts a container of an image that is there. */
  async startContainer(podSandboxId: string, image: string, ...command: string[]): Promise<RunningContainer> {
    const sandboxConfig = this.#pods.get(podSandboxId);
    if (sandboxConfig === undefined) throw new Error(`no pod of ours: ${podSandboxId}`);
    const name = `container-${++this.#made}`;
    const logPath = `${name}.log`;
    const config: ContainerConfig = {
      metadata: { name },
      image: { image },
      command,
      logPath,
      linux: HOST_NETWORK,
    };
    const { containerId } = await this.cri.call('CreateContainer', { podSandboxId, config, sandboxConfig });
    await this.cri.call('StartContainer', { containerId });
    const output = () => plainText(readFileSync(join(sandboxConfig.logDirectory, logPath), 'utf8'));
    return {
      id: containerId,
      output,
      exec: async (...cmd) => {
        const request = { containerId, cmd, timeout: EXEC_SECONDS };
        const { exitCode, stdout, stderr } = await this.cri.call('ExecSync', request);
        return { exitCode, output: Buffer.concat([stdout, stderr]).toString() };
      },
      ended: async () => {
        for (;;) {
          const { status } = await this.cri.call('ContainerStatus', { containerId });
          if (status.state === 'CONTAINER_EXITED') return { exitCode: status.exitCode, output: output() };
          await sleep(POLL_MS);
        }
      },
      remove: async () => {
        await this.cri.call('StopContainer', { containerId, timeout: 0 });
        await this.cri.call('RemoveContainer', { containerId });
      },
    };
  }

  /** Runs a container to its end, and removes it. */
  async run(podSandboxId: string, image: string, ...command: string[]): Promise<ContainerResult> {
    const container = await this.startContainer(podSandboxId, image, ...command);
    try {
      return await container.ended();
    } finally {
      await container.remove();
    }
  }

  /** What `ctr` answers; in the namespace of Kubernetes, if no other is named. */
  async ctr(...args: string[]): Promise<string> {
    const { stdout } = await run('ctr', ['--address', this.#socketPath, ...args], { env: this.#ctrEnv });
    return stdout;
  }

  /** Writes what `ctr` answers to a file: bytes that are no text. */
  async ctrInto(path: string, ...args: string[]): Promise<void> {
    const command = ['ctr', '--address', this.#socketPath, ...args];
    await run('sh', ['-c', 'exec "$@" >"$0"', path, ...command], { env: this.#ctrEnv });
  }

  /** Ends it, and not the containers. */
  async stop(): Promise<void> {
    const running = this.#running;
    this.#running = null;
    running?.client.close();
    await running?.process.stop();
  }

  /** Ends all pods, then itself. */
  async remove(): Promise<void> {
    if (this.#running !== null) for (const id of [...this.#pods.keys()]) await this.removePod(id);
    await this.stop();
    rmSync(this.#options.directory, { recursive: true });
  }

  get #ctrEnv() {
    return { ...NOWHERE, CONTAINERD_NAMESPACE: NAMESPACE };
  }

  get #socketPath(): string {
    return join(this.#options.directory, 'containerd.sock');
  }
}

function configOf(options: CriContainerdOptions): string {
  const { directory, hostsDirectory, pauseImage, snapshotter, dadiSocketPath } = options;
  const proxyPlugin = `[proxy_plugins.dadi]
  type = "snapshot"
  address = "${dadiSocketPath}"`;
  return `version = 2
root = "${directory}/root"
state = "${directory}/state"
disabled_plugins = ["io.containerd.internal.v1.opt"]
[grpc]
  address = "${directory}/containerd.sock"
[plugins."io.containerd.gc.v1.scheduler"]
  schedule_delay = "0ms"
  startup_delay = "10ms"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "${pauseImage}"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "${directory}/no-cni"
    conf_dir = "${directory}/no-cni"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "${snapshotter}"
    disable_snapshot_annotations = false
  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = "${hostsDirectory}"
${dadiSocketPath === undefined ? '' : proxyPlugin}
`;
}

/** The kubelet's log format: time, stream, whether the line is whole, text. */
function plainText(log: string): string {
  return log
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => {
      const [, isWhole, text] = /^\S+ \S+ ([FP]) (.*)$/.exec(line) ?? [];
      return `${text}${isWhole === 'F' ? '\n' : ''}`;
    })
    .join('');
}
