/** How simulated hosts ask each other for chunks. */
import {
  PeerError,
  type PeerListener,
  type PeerRequest,
  type PeerTransport,
} from '../../src/p2p/agent/peer-transport.ts';
import type { Peer } from '../../src/p2p/mesh-protocol.ts';
import { send } from './links.ts';
import { CHUNK, type SimContent } from './sim-content.ts';
import type { SimHost } from './sim-host.ts';

/** One host's connections to all others. */
export class SimPeers implements PeerTransport {
  readonly #hosts: ReadonlyMap<string, SimHost>;
  readonly #contents: ReadonlyMap<string, SimContent>;
  readonly #own: () => SimHost;

  constructor(
    hosts: ReadonlyMap<string, SimHost>,
    contents: ReadonlyMap<string, SimContent>,
    own: () => SimHost,
  ) {
    this.#hosts = hosts;
    this.#contents = contents;
    this.#own = own;
  }

  async chunks({ id }: Peer, request: PeerRequest, on: PeerListener, signal: AbortSignal): Promise<void> {
    const child = this.#own();
    const { time, costs } = child.parts;
    const content = this.#contents.get(request.table);
    const peer = this.#hosts.get(id);
    await time.sleep(costs.latencyMs, signal);
    if (peer === undefined || content === undefined)
      throw new PeerError('ERR_PEER_UNREACHABLE', 'no such host');
    if (!peer.isAlive) await silence(signal);
    await peer.daemon.work(0);
    if (!peer.holds(request.table)) {
      await time.sleep(costs.latencyMs, signal);
      throw new PeerError('ERR_PEER_UNKNOWN_CONTENT', 'not here');
    }
    time.after(costs.latencyMs, () => void child.daemon.work(0).then(() => !signal.aborted && on.found()));
    await within(signal, peer.died, this.#sendAll(peer, child, content, request, on, signal));
  }

  async #sendAll(
    peer: SimHost,
    child: SimHost,
    content: SimContent,
    { first, count }: PeerRequest,
    on: PeerListener,
    signal: AbortSignal,
  ): Promise<void> {
    const { time, costs } = child.parts;
    const arrivals: Promise<void>[] = [];
    await time.sleep(costs.peerMs);
    // Asks above for what it does not have: all of it at once, as the children do.
    if (count > 1) peer.get({ content, first, count }).catch(() => {});
    for (let index = first; index < first + count; index++) {
      await peer.get({ content, first: index, count: 1 });
      if (signal.aborted || !peer.isAlive) return;
      const done = await peer.turns.take(child.id, costs.chunkBytes, signal);
      await peer.daemon.work(costs.sendMs);
      const arrival = Promise.withResolvers<void>();
      arrivals.push(arrival.promise);
      send(time, { from: peer.up, to: child.down, latencyMs: costs.latencyMs }, costs.chunkBytes, () => {
        done();
        void child.daemon.work(costs.receiveMs).then(() => {
          if (!signal.aborted && peer.isAlive) on.deliver(index, CHUNK);
          arrival.resolve();
        });
      });
    }
    await Promise.all(arrivals);
  }
}

/** A host that is gone says nothing, until the other one gives up. */
function silence(signal: AbortSignal): Promise<never> {
  return new Promise((_, reject) =>
    signal.addEventListener('abort', () => reject(signal.reason), { once: true }),
  );
}

/** Rejects when the asking host gives up, or when the connection breaks since the other one dies. */
function within(signal: AbortSignal, died: AbortSignal, work: Promise<void>): Promise<void> {
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  const onAbort = () => reject(signal.reason);
  const onDeath = () => reject(new PeerError('ERR_PEER_UNREACHABLE', 'the connection broke off'));
  signal.addEventListener('abort', onAbort, { once: true });
  died.addEventListener('abort', onDeath, { once: true });
  work.then(resolve, reject).finally(() => {
    signal.removeEventListener('abort', onAbort);
    died.removeEventListener('abort', onDeath);
  });
  return promise;
}
