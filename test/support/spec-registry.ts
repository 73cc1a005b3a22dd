import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type Digest, digestOf } from '../../src/oci/digest.ts';
import { type MadeManifest, pushBlob, pushMade } from './made-image.ts';
import { type Registry, startRegistry } from './registry.ts';
import { TestProxy } from './test-proxy.ts';

/** What `Link` leads to, as a path; null without one. */
export function nextOf(response: Response): string | null {
  const link = response.headers.get('link');
  return link === null ? null : (/^<(\/[^>]*)>; rel="next"$/.exec(link)?.[1] ?? `not a link: ${link}`);
}

/** The headers that a HEAD has in common with its GET. */
export function lastingHeaders(response: Response): Record<string, string> {
  const passing = ['date', 'x-request-id', 'connection', 'keep-alive'];
  return Object.fromEntries([...response.headers].filter(([name]) => !passing.includes(name)));
}

/** A real registry, and the proxy in front of it for whom it is the only upstream. */
export class SpecRegistry {
  readonly registry: Registry;
  readonly proxy: TestProxy;
  readonly #directory: string;

  private constructor(registry: Registry, proxy: TestProxy, directory: string) {
    this.registry = registry;
    this.proxy = proxy;
    this.#directory = directory;
  }

  /** `config` is the proxy's, upstreams left out. */
  static async start(config: object = { conversion: { enabled: false } }): Promise<SpecRegistry> {
    const directory = mkdtempSync(join(tmpdir(), 'dadi-spec-'));
    const registry = await startRegistry({ dir: directory });
    const upstreams = [{ name: 'reg.example', url: registry.baseUrl.href }];
    return new SpecRegistry(registry, await TestProxy.start({ upstreams, ...config }), directory);
  }

  async push(repository: string, tag: string, made: MadeManifest): Promise<Digest> {
    await pushMade(this.registry.baseUrl, repository, tag, made);
    return made.descriptor.digest;
  }

  async pushBlob(repository: string, bytes: Buffer, digest = digestOf(bytes)): Promise<Digest> {
    await pushBlob(this.registry.baseUrl, repository, bytes, digest);
    return digest;
  }

  /** Straight from the registry. */
  direct(path: string, init?: RequestInit): Promise<Response> {
    return fetch(new URL(path, this.registry.baseUrl), init);
  }

  async remove(): Promise<void> {
    await this.proxy.remove();
    await this.registry.stop();
    rmSync(this.#directory, { recursive: true });
  }
}
