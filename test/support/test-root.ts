import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { json } from 'node:stream/consumers';
import {
  type Announcement,
  type Content,
  type Heartbeat,
  heartbeatSchema,
  type JoinAnswer,
  joinRequestSchema,
  type Lost,
  lostSchema,
  type Peer,
  type Place,
  ROOT_PATH,
} from '../../src/p2p/mesh-protocol.ts';
import { RootKey } from '../../src/p2p/root/root-key.ts';
import { issueTicket } from '../../src/p2p/tickets.ts';

/** Whom a member is to ask, by the order in which the members joined; nobody: it is at the top. */
type Layout = (member: number) => readonly number[];

/** A root whose trees a test decides, over real HTTP; tickets are real ones. */
export class TestRoot {
  readonly key = RootKey.generate();
  readonly members: Announcement[] = [];
  readonly reports: Lost[] = [];
  readonly beats: Heartbeat[] = [];
  /** `Authorization` of the joins, and what they asked for. */
  readonly joins: { readonly authorization: string | undefined; readonly url: string }[] = [];
  layout: Layout = (member) => (member === 0 ? [] : [member - 1]);
  /** Demanded of joins. */
  authorization: string | null = null;
  #server: Server | null = null;

  static async start(port = 0): Promise<TestRoot> {
    const root = new TestRoot();
    const server = createServer((request, response) => void root.#answer(request, response));
    root.#server = server;
    await new Promise<void>((resolve) => server.listen(port, '127.0.0.1', resolve));
    return root;
  }

  get url(): URL {
    return new URL(`http://127.0.0.1:${(this.#server!.address() as AddressInfo).port}/`);
  }

  /** As it comes after a member's join; a ticket of another member or time is for tests that misuse it. */
  ticket({ blob, table }: Content, member = 'f'.repeat(32), endsAtMs = Date.now() + 600_000): string {
    return issueTicket({ blob, table, member, endsAtMs }, this.key);
  }

  async stop(): Promise<void> {
    this.#server!.closeAllConnections();
    await new Promise((resolve) => this.#server!.close(resolve));
  }

  async #answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const path = request.url!.slice(ROOT_PATH.length).split('?', 1)[0];
    const body = request.method === 'POST' ? await json(request) : null;
    const { authorization } = request.headers;
    if (path === '/join') this.joins.push({ authorization, url: request.url! });
    if (path === '/join' && this.authorization !== null && authorization !== this.authorization) {
      response.writeHead(401, { 'www-authenticate': 'Basic realm="test"' }).end();
      return;
    }
    response.setHeader('content-type', 'application/json');
    response.end(JSON.stringify(this.#made(path, body)));
  }

  #made(path: string | undefined, body: unknown): unknown {
    switch (path) {
      case '/keys':
        return this.key.publicKeys();
      case '/join': {
        const { member, contents } = joinRequestSchema.parse(body);
        if (!this.members.some(({ id }) => id === member.id)) this.members.push(member);
        const places = contents.map((content) => this.#place(content, member.id));
        return { places, refused: [], session: 'a-session', heartbeatMs: 200 } satisfies JoinAnswer;
      }
      case '/heartbeat':
        this.beats.push(heartbeatSchema.parse(body));
        return { places: [], unknown: [] };
      case '/lost': {
        const lost = lostSchema.parse(body);
        this.reports.push(lost);
        return this.#place({ blob: lost.blob, table: lost.table }, lost.id);
      }
      default:
        return {};
    }
  }

  #place(content: Content, id: string): Place {
    const at = this.members.findIndex((member) => member.id === id);
    const [parent = null, ...alternates] = this.layout(at).map((other) => peerOf(this.members[other]!));
    const ticket = this.ticket(content, id);
    return {
      ...content,
      parent,
      alternates,
      depth: parent === null ? 1 : 2,
      ticket,
      ticketEndsInMs: 600_000,
    };
  }
}

function peerOf({ id, address }: Announcement): Peer {
  return { id, address };
}
