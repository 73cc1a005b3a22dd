import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type Logger, pino } from 'pino';
import { expect, vi } from 'vitest';
import { parseProxyConfig } from '../../src/proxy/config.ts';
import { type RunningProxy, startProxy } from '../../src/proxy/server.ts';

/** A proxy in this process, on a port and a directory of its own, that can be stopped and started again. */
export class TestProxy {
  readonly directory = mkdtempSync(join(tmpdir(), 'dadi-proxy-'));
  readonly #config: object;
  /** What it logged, as objects. */
  readonly logged: Record<string, unknown>[] = [];
  readonly #log: Logger;
  #running: RunningProxy | null = null;

  /** `config` as an operator writes it, without address and directory. */
  private constructor(config: object) {
    this.#config = config;
    this.#log = pino({ level: 'info' }, { write: (line: string) => this.logged.push(JSON.parse(line)) });
  }

  static async start(config: object): Promise<TestProxy> {
    const proxy = new TestProxy(config);
    await proxy.start();
    return proxy;
  }

  /** `changed` takes the place of keys of the configuration, this once. */
  async start(changed: object = {}): Promise<void> {
    const anyPort = '127.0.0.1:0';
    const input = {
      listen: anyPort,
      admin: { listen: anyPort },
      dataDirectory: this.directory,
      ...this.#config,
      ...changed,
    };
    this.#running = await startProxy(parseProxyConfig(input), { log: this.#log, version: 'test' });
  }

  get url(): string {
    return `http://${this.host}`;
  }

  get host(): string {
    if (this.#running === null) throw new Error('the proxy is stopped');
    return `127.0.0.1:${this.#running.address.port}`;
  }

  /** Where operators ask. */
  get adminUrl(): string {
    const address = this.#running?.adminAddress ?? null;
    if (address === null) throw new Error('the proxy is stopped, or has no listener for operators');
    return `http://127.0.0.1:${address.port}`;
  }

  async adminFetch(path: string, init?: RequestInit): Promise<Response> {
    return fetch(`${this.adminUrl}${path}`, init);
  }

  async fetch(path: string, init?: RequestInit): Promise<Response> {
    return fetch(`${this.url}${path}`, init);
  }

  /** Files of what is not finished. */
  unfinished(): string[] {
    return readdirSync(join(this.directory, 'ingest'));
  }

  /** Resolves when nothing is unfinished any more: readers have a blob before it is durable. */
  async allFinished(): Promise<void> {
    await vi.waitFor(() => expect(this.unfinished()).toEqual([]), { timeout: 60_000 });
  }

  /** Ends the process's part; the directory stays. */
  async stop(): Promise<void> {
    const running = this.#running;
    this.#running = null;
    await running?.close();
  }

  /** Stops it and removes its directory. */
  async remove(): Promise<void> {
    await this.stop();
    rmSync(this.directory, { recursive: true });
  }
}

/** The whole body. */
export async function bytesOf(response: Response): Promise<Buffer> {
  return Buffer.from(await response.arrayBuffer());
}

/** What a Distribution error says. */
export async function errorOf(
  response: Response,
): Promise<{ status: number; code: string; message: string }> {
  const { errors } = (await response.json()) as { errors: { code: string; message: string }[] };
  return { status: response.status, code: errors[0]!.code, message: errors[0]!.message };
}

/** What came of a body before its connection broke; rejects if it did not break. */
export async function brokenBody(response: Response): Promise<Buffer> {
  const pieces: Uint8Array[] = [];
  const read = async () => {
    for await (const piece of response.body!) pieces.push(piece);
  };
  const isBroken = await read().then(
    () => false,
    () => true,
  );
  if (!isBroken) throw new Error('the body came to a clean end');
  return Buffer.concat(pieces);
}
