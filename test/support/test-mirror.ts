import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pino } from 'pino';
import { ChunkCache } from '../../src/client/chunks/chunk-cache.ts';
import { type MirrorOptions, MirrorServer } from '../../src/client/mirror/mirror-server.ts';
import { Proxies } from '../../src/client/sources/proxies.ts';
import { SourceCredentials } from '../../src/client/sources/source-credentials.ts';

/** A node's mirror in this process, on a port and a directory of its own. */
export class TestMirror {
  readonly directory = mkdtempSync(join(tmpdir(), 'dadi-mirror-'));
  readonly credentials = new SourceCredentials({ file: null, dockerConfig: null });
  readonly #urls: readonly URL[];
  readonly #options: Partial<MirrorOptions>;
  #proxies: Proxies | null = null;
  #server: MirrorServer | null = null;

  private constructor(urls: readonly URL[], options: Partial<MirrorOptions>) {
    this.#urls = urls;
    this.#options = options;
  }

  /** @param urls of proxies, the preferred one first */
  static async start(urls: readonly string[], options: Partial<MirrorOptions> = {}): Promise<TestMirror> {
    const mirror = new TestMirror(
      urls.map((url) => new URL(url)),
      options,
    );
    await mirror.start();
    return mirror;
  }

  /** After {@link stop}: with what it kept. */
  async start(): Promise<void> {
    const proxies = new Proxies({ urls: this.#urls, credentials: this.credentials });
    this.#proxies = proxies;
    this.#server = await MirrorServer.start({
      listen: { host: '127.0.0.1', port: 0 },
      proxies: this.#urls,
      sources: proxies,
      cache: await ChunkCache.open(join(this.directory, 'chunks')),
      stateDirectory: join(this.directory, 'mirror'),
      logger: pino({ level: 'silent' }),
      ...this.#options,
    });
  }

  get server(): MirrorServer {
    if (this.#server === null) throw new Error('the mirror is stopped');
    return this.#server;
  }

  /** `127.0.0.1:PORT` */
  get host(): string {
    return this.server.url.host;
  }

  fetch(path: string, init?: RequestInit): Promise<Response> {
    return fetch(new URL(path, this.server.url), init);
  }

  async stop(): Promise<void> {
    await this.#server?.close();
    await this.#proxies?.close();
    this.#server = null;
  }

  /** Stops it and removes its directory. */
  async remove(): Promise<void> {
    await this.stop();
    rmSync(this.directory, { recursive: true });
  }
}
