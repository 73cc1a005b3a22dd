import { digestOf } from '../../src/oci/digest.ts';
import type { Clock } from '../../src/p2p/agent/clock.ts';
import {
  PeerError,
  type PeerErrorCode,
  type PeerListener,
  type PeerRequest,
  type PeerTransport,
} from '../../src/p2p/agent/peer-transport.ts';
import type { Peer, Place } from '../../src/p2p/mesh-protocol.ts';
import type { ChunkedBlob } from './chunked-blob.ts';

/** How a host answers, on the clock that it is given. */
export type PeerScript = (
  request: PeerRequest,
  on: PeerListener,
  clock: Clock,
  signal: AbortSignal,
) => Promise<void>;

export function peerNamed(letter: string): Peer {
  return { id: letter.repeat(32), address: `host-${letter}:6011` };
}

/** Hosts that do what a script says, by the first letter of their id. */
export class ScriptedPeers implements PeerTransport {
  /** Who was asked for how much: `b 0+4`. */
  readonly asked: string[] = [];
  readonly #scripts: Record<string, PeerScript>;
  readonly #clock: Clock;

  constructor(clock: Clock, scripts: Record<string, PeerScript>) {
    this.#clock = clock;
    this.#scripts = scripts;
  }

  async chunks(peer: Peer, request: PeerRequest, on: PeerListener, signal: AbortSignal): Promise<void> {
    const letter = peer.id.charAt(0);
    this.asked.push(`${letter} ${request.first}+${request.count}`);
    await this.#scripts[letter]!(request, on, this.#clock, signal);
  }
}

interface Pace {
  readonly findMs?: number;
  readonly chunkMs?: number;
  /** Stays silent after so many chunks. */
  readonly chunks?: number;
  /** Flips a bit of these. */
  readonly wrong?: readonly number[];
}

/** Has the blob. */
export function has(blob: ChunkedBlob, pace: Pace = {}): PeerScript {
  const { findMs = 1, chunkMs = 1, chunks = Number.POSITIVE_INFINITY, wrong = [] } = pace;
  return async ({ first, count }, on, clock, signal) => {
    await clock.sleep(findMs, signal);
    on.found();
    for (let index = first; index < first + count; index++) {
      await (index - first >= chunks ? silent(signal) : clock.sleep(chunkMs, signal));
      const { chunkSize } = blob.table;
      const bytes = Buffer.from(blob.bytes.subarray(index * chunkSize, (index + 1) * chunkSize));
      if (wrong.includes(index)) bytes[0]! ^= 1;
      on.deliver(index, bytes);
    }
  };
}

/** Takes the request and says nothing. */
export const dead: PeerScript = (_request, _on, _clock, signal) => silent(signal);

export function fails(code: PeerErrorCode, alternates: readonly Peer[] = []): PeerScript {
  return async (_request, _on, clock, signal) => {
    await clock.sleep(1, signal);
    throw new PeerError(code, 'as the script says', { alternates });
  };
}

function silent(signal: AbortSignal): Promise<void> {
  return new Promise((_, reject) => {
    signal.addEventListener('abort', () => reject(signal.reason), { once: true });
  });
}

/** A place below the first of these hosts, with the others as alternates. */
export function placeBelow(blob: ChunkedBlob, letters: string): Place {
  const [parent = null, ...alternates] = Array.from(letters, peerNamed);
  return {
    ...{ blob: blob.digest, table: digestOf(blob.table.digests) },
    ...{ parent, alternates, depth: 2, ticket: 'a-ticket', ticketEndsInMs: 3_600_000 },
  };
}
