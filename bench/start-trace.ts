/** What a container reads while it starts, and in which order: seen between a host and the proxy. */
import { createServer, request } from 'node:http';
import type { AddressInfo } from 'node:net';
import type { Digest } from '../src/oci/digest.ts';
import type { Trace } from './swarm/swarm.ts';

export const CHUNK_BYTES = 256 * 1024;

interface Seen {
  readonly digest: Digest;
  readonly first: number;
  readonly count: number;
  readonly beganMs: number;
  endedMs: number;
}

/** An HTTP server that passes on all requests, and remembers those for parts of blobs. */
export class TraceRecorder {
  readonly url: string;
  readonly #close: () => void;
  readonly #seen: Seen[];

  private constructor(url: string, seen: Seen[], close: () => void) {
    this.url = url;
    this.#seen = seen;
    this.#close = close;
  }

  /** @param address of this machine, as the host reaches it */
  static async start(address: string, proxyUrl: string): Promise<TraceRecorder> {
    const seen: Seen[] = [];
    const server = createServer((incoming, outgoing) => {
      const { method, url = '/', headers } = incoming;
      const entry = rangeOf(url, headers.range);
      if (entry !== null) seen.push(entry);
      const passed = request(new URL(url, proxyUrl), { method, headers }, (answer) => {
        outgoing.writeHead(answer.statusCode ?? 502, answer.headers);
        answer.pipe(outgoing);
        answer.once('end', () => {
          if (entry !== null) entry.endedMs = performance.now();
        });
      });
      passed.once('error', () => outgoing.destroy());
      incoming.pipe(passed);
    });
    await new Promise<void>((listening) => server.listen(0, address, listening));
    const { port } = server.address() as AddressInfo;
    return new TraceRecorder(`http://${address}:${port}`, seen, () => server.close());
  }

  /** What came before does not count. */
  begin(): void {
    this.#seen.length = 0;
  }

  /** Ends the recording. Requests that overlap belong to one step. */
  stop(): Trace {
    this.#close();
    const blobs = [...new Set(this.#seen.map(({ digest }) => digest))];
    const steps: Seen[][] = [];
    for (const entry of this.#seen.toSorted((a, b) => a.beganMs - b.beganMs)) {
      const step = steps.at(-1);
      if (step?.every(({ endedMs }) => entry.beganMs < endedMs)) step.push(entry);
      else steps.push([entry]);
    }
    const lastChunk = (digest: Digest) =>
      Math.max(
        ...this.#seen.filter((entry) => entry.digest === digest).map(({ first, count }) => first + count),
      );
    return {
      blobChunks: blobs.map(lastChunk),
      steps: steps.map((step) =>
        step.map(({ digest, first, count }) => ({ blob: blobs.indexOf(digest), first, count })),
      ),
    };
  }
}

/** Null for anything but a part of a blob. */
function rangeOf(url: string, range: string | undefined): Seen | null {
  const digest = /\/blobs\/(sha256:[0-9a-f]{64})/.exec(url)?.[1];
  const [, start, end] = /^bytes=(\d+)-(\d+)$/.exec(range ?? '') ?? [];
  if (digest === undefined || start === undefined || end === undefined) return null;
  const first = Math.floor(Number(start) / CHUNK_BYTES);
  const count = Math.floor(Number(end) / CHUNK_BYTES) + 1 - first;
  const beganMs = performance.now();
  return { digest: digest as Digest, first, count, beganMs, endedMs: Number.POSITIVE_INFINITY };
}
