import { randomUUID } from 'node:crypto';
import { readFileSync, statSync } from 'node:fs';
import { get as getHttp } from 'node:http';
import { get as getHttps } from 'node:https';
import { vi } from 'vitest';
import type { Registry } from './registry.ts';

/** A request that a registry answered. */
export interface AnsweredRequest {
  readonly method: string;
  /** With its query. */
  readonly path: string;
  readonly status: number;
}

const ACCESS_LINE = /^\S+ - \S* \[.*?\] "(?<method>[A-Z]+) (?<path>\S+) HTTP\/[\d.]+" (?<status>\d{3}) /;

/** What a real registry was asked from some moment on, by its own access log. */
export class RegistryLog {
  readonly #registry: Registry;
  readonly #startBytes: number;

  /** From now on. */
  constructor(registry: Registry) {
    this.#registry = registry;
    this.#startBytes = statSync(registry.logPath).size;
  }

  /** All requests that were answered before this one was asked for. */
  async requests(): Promise<AnsweredRequest[]> {
    // The registry logs an answer when it is out: what the log says of a later one, it says after that.
    const mark = `/v2/?mark=${randomUUID()}`;
    await ask(new URL(mark, this.#registry.baseUrl));
    const lines = await vi.waitFor(
      () => {
        const text = readFileSync(this.#registry.logPath).subarray(this.#startBytes).toString();
        if (!text.includes(`GET ${mark} HTTP`))
          throw new Error('the registry has not logged the last request');
        return text.split('\n');
      },
      { timeout: 30_000, interval: 20 },
    );
    return lines.flatMap(answeredRequest).filter(({ path }) => !path.includes('?mark='));
  }

  /** How often each blob was sent, whole or from somewhere on, by digest. */
  async blobDownloads(): Promise<Record<string, number>> {
    const downloads: Record<string, number> = {};
    for (const { method, path, status } of await this.requests()) {
      const digest = /\/blobs\/(sha256:[0-9a-f]{64})(?:\?|$)/.exec(path)?.[1];
      if (method !== 'GET' || status >= 300 || digest === undefined) continue;
      downloads[digest] = (downloads[digest] ?? 0) + 1;
    }
    return downloads;
  }
}

/** Not every line tells of one. */
function answeredRequest(line: string): AnsweredRequest[] {
  const groups = ACCESS_LINE.exec(line)?.groups;
  if (groups === undefined) return [];
  const { method = '', path = '', status } = groups;
  return [{ method, path, status: Number(status) }];
}

function ask(url: URL): Promise<void> {
  return new Promise((resolve, reject) => {
    const request =
      url.protocol === 'https:'
        ? getHttps(url, { rejectUnauthorized: false, agent: false })
        : getHttp(url, { agent: false });
    request.once('error', reject);
    request.once('response', (response) => response.resume().once('end', resolve));
  });
}
