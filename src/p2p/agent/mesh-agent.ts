import type { ChunkTable } from '../../format/chunk-table.ts';
import { type Digest, digestOf } from '../../oci/digest.ts';
import { hostInUrl, isLoopbackHost } from '../../oci/registry-url.ts';
import { memberIdOf, newMemberSecret } from '../member-secret.ts';
import type { Announcement, Content, Peer } from '../mesh-protocol.ts';
import type { HeldContent } from './chunk-holder.ts';
import { systemClock } from './clock.ts';
import { HttpPeerTransport } from './http-peer-transport.ts';
import { HttpRootTransport } from './http-root-transport.ts';
import { Membership } from './membership.ts';
import type { Budgets, Mesh, MeshAgentOptions, MeshStatus, Patience, TreeStatus, Where } from './mesh.ts';
import type { MeshBlob } from './mesh-blob.ts';
import { type MeshCounters, zeroCounters } from './mesh-counts.ts';
import { MeshError } from './mesh-error.ts';
import { peerTls } from './peer-security.ts';
import { PeerServer } from './peer-server.ts';
import { PeerStandings } from './peer-standings.ts';
import { DEFAULT_BUDGETS, LONG_BUDGETS } from './run-time.ts';
import type { Seat } from './seat.ts';
import { TicketChecker } from './ticket-checker.ts';
import { withinMs } from './time-limit.ts';
import { TreeReader } from './tree-reader.ts';

const DEFAULT_LINGER_MS = 5 * 60_000;
/** How many are asked for a chunk table, and how long each may take: a parent may be waiting for it itself. */
const TABLE_PEERS = 2;
const TABLE_MS = 500;

interface AgentParts {
  readonly member: Announcement;
  readonly membership: Membership;
  readonly tickets: TicketChecker;
  readonly roots: HttpRootTransport;
  readonly peers: HttpPeerTransport;
  readonly standings: PeerStandings;
  readonly server: PeerServer;
  readonly lent: Map<Digest, HeldContent>;
  readonly counters: MeshCounters;
  readonly budgets: Budgets;
}

/** A host's part in the mesh, over real sockets: gets chunks from the hosts above it, gives them to those below. */
export class MeshAgent implements Mesh {
  readonly #parts: AgentParts;

  private constructor(parts: AgentParts) {
    this.#parts = parts;
  }

  /** @throws MeshError; the system's error if nobody can listen there */
  static async start(options: MeshAgentOptions): Promise<MeshAgent> {
    const {
      listen,
      holder,
      logger,
      security,
      uploadBytesPerSecond,
      zone,
      budgets = DEFAULT_BUDGETS,
    } = options;
    if (security.kind === 'plain') requireLoopback(listen.host);
    const tls = peerTls(security);
    const secret = newMemberSecret();
    const roots = new HttpRootTransport(options.authorize, options.rootTls ?? null, secret);
    const urls = options.roots.map(({ href }) => href);
    const counters = zeroCounters();
    const tickets = new TicketChecker(urls, roots, systemClock);
    const peers = new HttpPeerTransport(tls);
    const standings = new PeerStandings(systemClock);
    const lent = new Map<Digest, HeldContent>();
    let membership: Membership | null = null;
    const server = await PeerServer.start({
      ...{ listen, tls, uploadBytesPerSecond, tickets, counters, logger, clock: systemClock },
      holder: { find: (table) => lent.get(table) ?? holder.find(table) },
      isComing: (table) => membership?.isIn(table) ?? false,
      alternates: (table) => (membership === null ? [] : othersIn(membership, table)),
    });
    try {
      const address = advertised(options.advertise, server.address.port);
      const member = { id: memberIdOf(secret), address, zone, uploadBytesPerSecond };
      membership = new Membership({
        ...{ member, roots: urls, transport: roots, clock: systemClock },
        ...{ joinMs: budgets.joinMs, lingerMs: options.lingerMs ?? DEFAULT_LINGER_MS },
        onPlace: ({ parent }) => void (parent !== null && meet(parent, peers, standings)),
        onTrouble: (root, err) => logger.warn({ root, err }, 'a root of the mesh is of no help'),
      });
      void tickets.refresh();
      return new MeshAgent({
        member,
        membership,
        tickets,
        roots,
        peers,
        standings,
        server,
        lent,
        counters,
        budgets,
      });
    } catch (error) {
      await server.close();
      throw error;
    }
  }

  join(where: Where, contents: readonly Content[]): void {
    void this.#parts.membership.join(where, contents);
  }

  async table(content: Content, signal: AbortSignal): Promise<Buffer | null> {
    const { membership, peers } = this.#parts;
    const seat = membership.seat(content);
    const place = await seat.arrival(signal);
    if (place === null || place.parent === null) return null;
    for (const peer of [place.parent, ...place.alternates].slice(0, TABLE_PEERS)) {
      try {
        const bytes = await withinMs(systemClock, TABLE_MS, signal, (ends) =>
          peers.table(peer, content.table, place.ticket, ends),
        );
        if (digestOf(bytes) === content.table) return bytes;
        void seat.lose(peer, 'wrong-bytes');
      } catch {
        // It may not have it yet; whether it is of any use shows when chunks are asked for.
        signal.throwIfAborted();
      }
    }
    return null;
  }

  open(content: Content, table: ChunkTable, patience: Patience = 'short'): MeshBlob {
    const { membership, peers, standings, counters } = this.#parts;
    const budgets = patience === 'short' ? this.#parts.budgets : LONG_BUDGETS;
    const seat = membership.open(content);
    return new TreeReader({
      ...{ seat, table, counters, budgets, standings, transport: peers, clock: systemClock },
      onClose: () => membership.shut(seat),
    });
  }

  lend(table: Digest, content: HeldContent): () => void {
    const { lent } = this.#parts;
    lent.set(table, content);
    return () => {
      if (lent.get(table) === content) lent.delete(table);
    };
  }

  status(): MeshStatus {
    const { member, membership, counters, server } = this.#parts;
    const { id, address, zone } = member;
    const trees = Array.from(membership.seats, statusOf);
    const { roots } = membership;
    return { id, address, zone, roots, trees, children: server.children, counts: structuredClone(counters) };
  }

  async close(): Promise<void> {
    const { membership, tickets, roots, peers, server } = this.#parts;
    await membership.close();
    tickets.close();
    await peers.close();
    await server.close();
    await roots.close();
  }
}

/** So that the first read does not wait for a connection, nor takes a busy host for a dead one. */
async function meet(parent: Peer, peers: HttpPeerTransport, standings: PeerStandings): Promise<void> {
  if (await peers.meet(parent)) standings.heard(parent.id);
}

function statusOf({ content, place, root, openings, meshBytes, proxyBytes }: Seat): TreeStatus {
  if (place === null || root === null) return { ...content, place: null, openings, meshBytes, proxyBytes };
  const { parent, alternates, depth } = place;
  return { ...content, place: { root, parent, alternates, depth }, openings, meshBytes, proxyBytes };
}

/** Whom this host itself would ask for a content. */
function othersIn(membership: Membership, table: Digest): readonly Peer[] {
  for (const { content, place } of membership.seats) {
    if (content.table !== table || place === null) continue;
    return place.parent === null ? place.alternates : [place.parent, ...place.alternates];
  }
  return [];
}

function requireLoopback(host: string): void {
  if (isLoopbackHost(host)) return;
  throw new MeshError(
    'ERR_MESH_SECURITY',
    `hosts that can reach ${host} could take part without proof: give a secret or certificates`,
  );
}

/** HOST:PORT, the port being the one listened on if none is said. */
function advertised(text: string, port: number): string {
  const host = hostInUrl(text);
  const url = `http://${host}`;
  if (!URL.canParse(url) || new URL(url).hostname === '') {
    throw new MeshError('ERR_MESH_ADDRESS', `${text} is no address: write HOST or HOST:PORT`);
  }
  return /:\d{1,5}$/.test(host) ? host : `${host}:${port}`;
}
