import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { request } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { hash } from '@node-rs/bcrypt';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { FakeRegistry } from '../../../test/support/fake-registry.ts';
import { errorOf, TestProxy } from '../../../test/support/test-proxy.ts';
import { digestOf } from '../../oci/digest.ts';
import { memberIdOf } from '../../p2p/member-secret.ts';
import {
  type Announcement,
  type Content,
  heartbeatAnswerSchema,
  type JoinAnswer,
  joinAnswerSchema,
  keysSchema,
  placeSchema,
} from '../../p2p/mesh-protocol.ts';
import { verifyingKeys, verifyTicket } from '../../p2p/tickets.ts';

const ALICE = basic('alice');
const BOB = basic('bob');
const TABLE = digestOf('a chunk table');

let upstream: FakeRegistry;
let proxy: TestProxy;
let content: Content;

beforeEach(async () => {
  upstream = await FakeRegistry.start();
  content = { blob: upstream.putBlob(Buffer.from('a layer')), table: TABLE };
});

afterEach(async () => {
  await proxy.remove();
  await upstream.stop();
});

async function start(config: object = {}): Promise<void> {
  const upstreams = [{ name: 'reg.example', url: upstream.url }];
  proxy = await TestProxy.start({ upstreams, conversion: { enabled: false }, ...config });
}

function basic(name: string): string {
  return `Basic ${Buffer.from(`${name}:secret`).toString('base64')}`;
}

function host(number: number): Announcement {
  const id = memberIdOf(secretOf(number));
  return { id, address: `10.0.0.${number}:6012`, zone: '', uploadBytesPerSecond: 100_000_000 };
}

function secretOf(number: number): string {
  return number.toString(16).padStart(64, '0');
}

function post(path: string, body: unknown, authorization?: string): Promise<Response> {
  const headers = {
    'content-type': 'application/json',
    ...(authorization === undefined ? {} : { authorization }),
  };
  return proxy.fetch(`/dadi/v1/mesh/${path}`, { method: 'POST', headers, body: JSON.stringify(body) });
}

function askToJoin(
  number: number,
  authorization?: string,
  contents = [content],
  repository = 'lib/a',
  secret = secretOf(number),
) {
  const query = `repository=${repository}&ns=reg.example`;
  return post(`join?${query}`, { member: host(number), contents, secret }, authorization);
}

async function joined(...asked: Parameters<typeof askToJoin>): Promise<JoinAnswer> {
  const answer = await askToJoin(...asked);
  expect(answer.status).toBe(200);
  return joinAnswerSchema.parse(await answer.json());
}

/** What only alice may see: by the repository's first part. */
function rules({ url = '', headers }: IncomingMessage, response: ServerResponse): boolean {
  if (!url.startsWith('/v2/private/') || headers.authorization === ALICE) return false;
  const status = headers.authorization === undefined ? 401 : 403;
  response.writeHead(status, status === 401 ? { 'www-authenticate': 'Basic realm="upstream"' } : {}).end();
  return true;
}

test('hosts find each other through the proxy, and hold tickets that its published key proves', async () => {
  await start();
  expect((await joined(1)).places).toMatchObject([{ ...content, parent: null, depth: 1 }]);
  const { places, session, refused, heartbeatMs } = await joined(2);
  expect({ refused, heartbeatMs }).toEqual({ refused: [], heartbeatMs: 5000 });
  const [place] = places;
  expect(place).toMatchObject({ parent: { id: host(1).id, address: '10.0.0.1:6012' }, depth: 2 });
  const keys = keysSchema.parse(await (await proxy.fetch('/dadi/v1/mesh/keys')).json());
  expect(verifyTicket(place!.ticket, verifyingKeys(keys), Date.now())).toMatchObject({
    ...content,
    member: host(2).id,
  });

  const bearer = `Bearer ${session}`;
  const edges = [{ table: TABLE, from: host(1).id, bytes: 7, latencyMs: 1.5 }];
  const beat = await post('heartbeat', { member: host(2), contents: [content], edges }, bearer);
  expect(heartbeatAnswerSchema.parse(await beat.json())).toEqual({
    places: [],
    unknown: [],
    heartbeatMs: 5_000,
  });
  const lost = await post(
    'lost',
    { id: host(2).id, ...content, lost: host(1).id, reason: 'unreachable' },
    bearer,
  );
  expect(placeSchema.parse(await lost.json())).toMatchObject({ parent: null });

  const overview = await (await proxy.adminFetch('/dadi/v1/mesh')).json();
  expect(overview).toMatchObject({ members: 2, seats: 2, depth: 1, trees: [{ ...content, members: 2 }] });
  const shown = await (await proxy.adminFetch(`/dadi/v1/mesh?table=${TABLE}`)).json();
  expect(shown).toMatchObject({
    trees: [{ hosts: [{ id: host(1).id }, { id: host(2).id, edges: [{ from: host(1).id, bytes: 7 }] }] }],
  });
  expect((await post('leave', { id: host(2).id, contents: [] }, bearer)).status).toBe(200);
  expect(await (await proxy.adminFetch('/dadi/v1/mesh')).json()).toMatchObject({ members: 1 });
});

test('a content whose blob the repository does not have is refused, and the others are joined', async () => {
  await start();
  const none = { blob: digestOf('none'), table: TABLE };
  const { places, refused } = await joined(1, undefined, [content, none]);
  expect(places).toMatchObject([content]);
  expect(refused).toMatchObject([{ ...none, reason: expect.stringContaining('lib/a has no sha256:') }]);
  upstream.intercept = ({ url = '' }, response) => {
    if (!url.startsWith('/v2/lib/b/')) return false;
    response.writeHead(404).end();
    return true;
  };
  expect(await joined(2, undefined, [content], 'lib/b')).toMatchObject({ places: [], refused: [content] });
});

test('with passwords, only who stands in the file gets a ticket', async () => {
  const scratch = mkdtempSync(join(tmpdir(), 'dadi-mesh-'));
  const htpasswd = join(scratch, 'htpasswd');
  writeFileSync(htpasswd, `alice:${await hash('secret', { cost: 4 })}\n`);
  try {
    await start({ access: { mode: 'basic', htpasswd } });
    expect((await joined(1, ALICE)).places).toHaveLength(1);
    for (const other of [BOB, undefined]) {
      const answer = await askToJoin(2, other);
      expect(answer.headers.get('www-authenticate')).toMatch(/^Basic /);
      expect(await errorOf(answer)).toMatchObject({ status: 401 });
    }
    expect(await (await proxy.adminFetch('/dadi/v1/mesh')).json()).toMatchObject({ members: 1 });
  } finally {
    rmSync(scratch, { recursive: true });
  }
});

test("where rights are upstream's, who may not read there gets no ticket, also of what is kept and given to others", async () => {
  upstream.intercept = rules;
  await start({ access: { mode: 'passthrough' } });
  const asAlice = await joined(1, ALICE, [content], 'private/a');
  expect(asAlice.places).toHaveLength(1);
  const asBob = await joined(2, BOB, [content], 'private/a');
  expect(asBob).toMatchObject({ places: [], refused: [content] });
  const unasked = await askToJoin(3, undefined, [content], 'private/a');
  expect(unasked.status).toBe(401);
  expect(unasked.headers.get('www-authenticate')).toMatch(
    /^Bearer realm=.*scope="repository:private\/a:pull"/,
  );
  // The same for what there is and what there is not.
  const none = { blob: digestOf('none'), table: TABLE };
  const { refused } = await joined(2, BOB, [none], 'private/a');
  expect(refused[0]?.reason.replace(none.blob, '')).toBe(asBob.refused[0]?.reason.replace(content.blob, ''));
  // Bob's own repository does not have alice's blob, whatever he names.
  upstream.intercept = (incoming, response) => {
    if (!incoming.url?.startsWith('/v2/bobs/') || !incoming.url.includes('/blobs/'))
      return rules(incoming, response);
    response.writeHead(404).end();
    return true;
  };
  expect(await joined(2, BOB, [content], 'bobs/a')).toMatchObject({ places: [], refused: [content] });
});

test("nobody gets another host's session, and with it that one's tickets, by joining under its id", async () => {
  upstream.intercept = rules;
  await start({ access: { mode: 'passthrough' } });
  const asAlice = await joined(1, ALICE, [content], 'private/a');
  expect(asAlice.places).toHaveLength(1);
  // What Bob knows of alice's host: it was the parent of his own in another tree.
  const stolen = await askToJoin(1, BOB, [content], 'bobs/a', secretOf(2));
  expect(await errorOf(stolen)).toMatchObject({ status: 403, message: `${host(1).id} is another host` });
  expect((await joined(1, ALICE, [content], 'private/a')).places).toHaveLength(1);
});

test('when rights cannot be found out now the whole join fails, so that another root is asked', async () => {
  await start({ access: { mode: 'passthrough' } });
  upstream.intercept = (_request, response) => {
    response.writeHead(503).end();
    return true;
  };
  expect((await askToJoin(1, ALICE)).status).toBe(503);
});

test('a session is for the member that it was given to, and survives a restart', async () => {
  await start();
  const { session } = await joined(1);
  await joined(2);
  const leave = { id: host(2).id, contents: [] };
  expect(await errorOf(await post('leave', leave, `Bearer ${session}`))).toMatchObject({ status: 403 });
  expect(await errorOf(await post('leave', leave, 'Bearer x.y.z'))).toMatchObject({ status: 401 });
  expect(await errorOf(await post('leave', leave))).toMatchObject({ status: 401 });
  await proxy.stop();
  await proxy.start();
  const beat = await post(
    'heartbeat',
    { member: host(1), contents: [content], edges: [] },
    `Bearer ${session}`,
  );
  expect(await beat.json()).toMatchObject({ places: [], unknown: [content] });
  const report = { id: host(1).id, ...content, lost: host(2).id, reason: 'slow' };
  expect(await errorOf(await post('lost', report, `Bearer ${session}`))).toMatchObject({ status: 404 });
});

test('what is no such request is refused, and what it may cost is bounded', async () => {
  await start();
  const path = '/dadi/v1/mesh/join?repository=lib/a&ns=reg.example';
  const send = (body: string) => proxy.fetch(path, { method: 'POST', body });
  expect(await errorOf(await send('{'))).toMatchObject({ status: 400, message: 'the body is not JSON' });
  expect(await errorOf(await send('{}'))).toMatchObject({
    status: 400,
    message: expect.stringContaining('member'),
  });
  expect(await errorOf(await send(`"${'x'.repeat(200_000)}"`))).toMatchObject({
    status: 400,
    code: 'SIZE_INVALID',
  });
  const many = Array.from({ length: 257 }, () => content);
  expect((await askToJoin(1, undefined, many)).status).toBe(400);
  expect((await post('join', { member: host(1), contents: [content], secret: secretOf(1) })).status).toBe(
    400,
  );
  expect((await proxy.fetch(path)).status).toBe(405);
  // By length unknown, too.
  const answer = await new Promise<number | undefined>((resolve, reject) => {
    const outgoing = request(`${proxy.url}${path}`, { method: 'POST' }, ({ statusCode }) =>
      resolve(statusCode),
    );
    outgoing.on('error', reject);
    outgoing.write('x'.repeat(200_000));
  });
  expect(answer).toBe(400);
});

test('a connection over which a body came whole serves the next request', async () => {
  await start();
  expect((await askToJoin(1)).headers.get('connection')).not.toBe('close');
  const unread = await post('heartbeat', { member: host(1) });
  expect([unread.status, unread.headers.get('connection')]).toEqual([401, 'close']);
});

test('a proxy can be no root', async () => {
  await start({ mesh: { enabled: false } });
  expect((await askToJoin(1)).status).toBe(404);
  expect((await proxy.adminFetch('/dadi/v1/mesh')).status).toBe(404);
});
