import { Client, credentials, Metadata } from '@grpc/grpc-js';
import {
  type InfoMessage,
  type InfoResponse,
  type Labels,
  type ListResponse,
  type Mount,
  type MountsResponse,
  SNAPSHOTS_SERVICE,
  type UsageResponse,
} from '../../src/client/snapshotter/snapshots-api.ts';

/** Calls the snapshots API as containerd does. What is refused rejects with gRPC's ServiceError. */
export class SnapshotsClient {
  readonly #client: Client;
  readonly #snapshotter: string;
  readonly #metadata = new Metadata();

  /** @param through which snapshotter of a containerd, in which of its namespaces; if it is one that listens there */
  constructor(socketPath: string, through?: { readonly snapshotter: string; readonly namespace: string }) {
    this.#snapshotter = through?.snapshotter ?? '';
    if (through !== undefined) this.#metadata.set('containerd-namespace', through.namespace);
    this.#client = new Client(`unix:${socketPath}`, credentials.createInsecure());
  }

  close(): void {
    this.#client.close();
  }

  async prepare(
    key: string,
    parent = '',
    labels: Labels = {},
    signal?: AbortSignal,
  ): Promise<readonly Mount[]> {
    return (await this.#call<MountsResponse>('Prepare', { key, parent, labels }, signal)).mounts;
  }

  async view(key: string, parent = '', labels: Labels = {}): Promise<readonly Mount[]> {
    return (await this.#call<MountsResponse>('View', { key, parent, labels })).mounts;
  }

  async mounts(key: string): Promise<readonly Mount[]> {
    return (await this.#call<MountsResponse>('Mounts', { key })).mounts;
  }

  async commit(name: string, key: string, labels: Labels = {}): Promise<void> {
    await this.#call('Commit', { name, key, labels });
  }

  async remove(key: string): Promise<void> {
    await this.#call('Remove', { key });
  }

  async stat(key: string): Promise<InfoMessage> {
    return (await this.#call<InfoResponse>('Stat', { key })).info;
  }

  /** @param paths of the fields to update; without any, all that can be */
  async update(info: Partial<InfoMessage>, ...paths: readonly string[]): Promise<InfoMessage> {
    return (await this.#call<InfoResponse>('Update', { info, update_mask: { paths } })).info;
  }

  async usage(key: string): Promise<UsageResponse> {
    return this.#call<UsageResponse>('Usage', { key });
  }

  async cleanup(): Promise<void> {
    await this.#call('Cleanup', {});
  }

  async list(...filters: readonly string[]): Promise<InfoMessage[]> {
    const { path, requestSerialize, responseDeserialize } = SNAPSHOTS_SERVICE['List']!;
    const stream = this.#client.makeServerStreamRequest(path, requestSerialize, responseDeserialize, {
      filters,
    });
    const infos: InfoMessage[] = [];
    for await (const message of stream) infos.push(...(message as ListResponse).info);
    return infos;
  }

  #call<Response>(method: string, request: object, signal?: AbortSignal): Promise<Response> {
    const { path, requestSerialize, responseDeserialize } = SNAPSHOTS_SERVICE[method]!;
    return new Promise((resolve, reject) => {
      const call = this.#client.makeUnaryRequest(
        path,
        requestSerialize,
        responseDeserialize,
        { snapshotter: this.#snapshotter, ...request },
        this.#metadata,
        (error, response) => (error === null ? resolve(response as Response) : reject(error)),
      );
      signal?.addEventListener('abort', () => call.cancel(), { once: true });
    });
  }
}
