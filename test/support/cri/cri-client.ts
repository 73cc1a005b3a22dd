import { join } from 'node:path';
import {
  type Client,
  credentials,
  loadPackageDefinition,
  type ServiceClientConstructor,
  type ServiceError,
} from '@grpc/grpc-js';
import { loadSync } from '@grpc/proto-loader';

/** What the methods that the tests call take and give; the shapes are those of cri.proto. */
interface CriMethods {
  readonly PullImage: [
    { image: ImageSpec; auth?: Credentials; sandboxConfig?: PodConfig },
    { imageRef: string },
  ];
  readonly ImageStatus: [{ image: ImageSpec }, { image: CriImage | null }];
  readonly RemoveImage: [{ image: ImageSpec }, object];
  readonly RunPodSandbox: [{ config: PodConfig }, { podSandboxId: string }];
  readonly StopPodSandbox: [{ podSandboxId: string }, object];
  readonly RemovePodSandbox: [{ podSandboxId: string }, object];
  readonly CreateContainer: [
    { podSandboxId: string; config: ContainerConfig; sandboxConfig: PodConfig },
    { containerId: string },
  ];
  readonly StartContainer: [{ containerId: string }, object];
  readonly StopContainer: [{ containerId: string; timeout: number }, object];
  readonly RemoveContainer: [{ containerId: string }, object];
  readonly ContainerStatus: [{ containerId: string }, { status: ContainerStatus }];
  readonly ExecSync: [
    { containerId: string; cmd: readonly string[]; timeout: number },
    { stdout: Buffer; stderr: Buffer; exitCode: number },
  ];
  readonly Status: [object, { status: { conditions: readonly { type: string; status: boolean }[] } }];
}

interface ImageSpec {
  readonly image: string;
}

export interface Credentials {
  readonly username: string;
  readonly password: string;
}

export interface CriImage {
  readonly id: string;
  readonly repoTags: readonly string[];
  readonly repoDigests: readonly string[];
  readonly size: string;
}

export interface PodConfig {
  readonly metadata: { readonly name: string; readonly uid: string; readonly namespace: string };
  readonly logDirectory: string;
  readonly linux: { readonly securityContext: { readonly namespaceOptions: NamespaceOptions } };
}

export interface ContainerConfig {
  readonly metadata: { readonly name: string };
  readonly image: ImageSpec;
  readonly command: readonly string[];
  readonly logPath: string;
  readonly linux: { readonly securityContext: { readonly namespaceOptions: NamespaceOptions } };
}

interface NamespaceOptions {
  readonly network: 'POD' | 'NODE';
}

export interface ContainerStatus {
  readonly id: string;
  readonly state: 'CONTAINER_CREATED' | 'CONTAINER_RUNNING' | 'CONTAINER_EXITED' | 'CONTAINER_UNKNOWN';
  readonly exitCode: number;
}

type MethodName = keyof CriMethods;
type Request<M extends MethodName> = CriMethods[M][0];
type Answer<M extends MethodName> = CriMethods[M][1];
type Unary = (
  request: object,
  options: { deadline: number },
  done: (error: ServiceError | null, answer: object) => void,
) => void;

interface Services {
  readonly runtime: {
    readonly v1: Readonly<Record<'ImageService' | 'RuntimeService', ServiceClientConstructor>>;
  };
}

const IMAGE_METHODS: ReadonlySet<MethodName> = new Set(['PullImage', 'ImageStatus', 'RemoveImage']);
/** Nothing that the tests ask for takes that long: one that hangs fails, and says which. */
const DEADLINE_MS = 120_000;

/** Calls methods of the Container Runtime Interface as the kubelet does. */
export class CriClient {
  readonly #images: Client;
  readonly #runtime: Client;

  /** @param socketPath of containerd */
  constructor(socketPath: string) {
    const definition = loadSync(join(import.meta.dirname, 'cri.proto'), {
      enums: String,
      longs: String,
      defaults: true,
    });
    const { runtime } = loadPackageDefinition(definition) as unknown as Services;
    const target = `unix://${socketPath}`;
    this.#images = new runtime.v1.ImageService(target, credentials.createInsecure());
    this.#runtime = new runtime.v1.RuntimeService(target, credentials.createInsecure());
  }

  /** Rejects with gRPC's error. */
  call<M extends MethodName>(method: M, request: Request<M>): Promise<Answer<M>> {
    const client = IMAGE_METHODS.has(method) ? this.#images : this.#runtime;
    const unary = (client as unknown as Record<MethodName, Unary>)[method].bind(client);
    return new Promise((resolve, reject) => {
      unary(request, { deadline: Date.now() + DEADLINE_MS }, (error, answer) => {
        if (error === null) resolve(answer as Answer<M>);
        else reject(error);
      });
    });
  }

  close(): void {
    this.#images.close();
    this.#runtime.close();
  }
}
