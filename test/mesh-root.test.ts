import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { digestOf } from '../src/oci/digest.ts';
import { memberIdOf } from '../src/p2p/member-secret.ts';
import { type Content, type JoinAnswer, joinAnswerSchema } from '../src/p2p/mesh-protocol.ts';
import { FakeRegistry } from './support/fake-registry.ts';
import { errorOf, TestProxy } from './support/test-proxy.ts';

const MAIN = resolve(import.meta.dirname, '../src/cli/main.ts');
const TABLE = digestOf('a chunk table');

let upstream: FakeRegistry;
let proxy: TestProxy;
let root: RootProcess;
let directory: string;
let content: Content;

/** `dadi root` as operators run it, on free ports. */
class RootProcess {
  readonly #child;
  readonly url: string;
  readonly adminUrl: string;

  private constructor(child: ReturnType<typeof spawn>, ports: readonly [number, number]) {
    this.#child = child;
    [this.url, this.adminUrl] = ports.map((port) => `http://127.0.0.1:${port}`) as [string, string];
  }

  static async start(): Promise<RootProcess> {
    const anyPort = '127.0.0.1:0';
    const args = [
      'root',
      '--proxy',
      proxy.url,
      '--data',
      directory,
      '--listen',
      anyPort,
      '--admin-listen',
      anyPort,
    ];
    const child = spawn(process.execPath, [MAIN, ...args, '--heartbeat-ms', '60000'], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    for await (const text of child.stdout.setEncoding('utf8')) {
      const line = String(text)
        .split('\n')
        .find((each) => each.includes('root is listening'));
      if (line === undefined) continue;
      const { port, admin } = JSON.parse(line) as { port: number; admin: { port: number } };
      child.stdout.resume();
      return new RootProcess(child, [port, admin.port]);
    }
    throw new Error('dadi root ended');
  }

  /** By the signal that asks for it. */
  async stop(): Promise<number | null> {
    const ended = once(this.#child, 'exit');
    this.#child.kill('SIGTERM');
    return (await ended)[0];
  }
}

/** What only alice may see. */
function rules({ url = '', headers }: IncomingMessage, response: ServerResponse): boolean {
  if (!url.startsWith('/v2/private/') || headers.authorization === basic('alice')) return false;
  const status = headers.authorization === undefined ? 401 : 403;
  response.writeHead(status, status === 401 ? { 'www-authenticate': 'Basic realm="upstream"' } : {}).end();
  return true;
}

function basic(name: string): string {
  return `Basic ${Buffer.from(`${name}:secret`).toString('base64')}`;
}

beforeEach(async () => {
  directory = mkdtempSync(join(tmpdir(), 'dadi-root-'));
  upstream = await FakeRegistry.start();
  upstream.intercept = rules;
  content = { blob: upstream.putBlob(Buffer.from('a layer')), table: TABLE };
  proxy = await TestProxy.start({
    upstreams: [{ name: 'reg.example', url: upstream.url }],
    access: { mode: 'passthrough' },
    conversion: { enabled: false },
    mesh: { enabled: false },
  });
  root = await RootProcess.start();
});

afterEach(async () => {
  await root.stop();
  await proxy.remove();
  await upstream.stop();
  rmSync(directory, { recursive: true });
});

function secretOf(number: number): string {
  return number.toString(16).padStart(64, '0');
}

function askToJoin(number: number, name: string | null, repository = 'private/a'): Promise<Response> {
  const secret = secretOf(number);
  const id = memberIdOf(secret);
  const member = { id, address: `10.0.0.${number}:6012`, zone: '', uploadBytesPerSecond: 100_000_000 };
  return fetch(`${root.url}/dadi/v1/mesh/join?${new URLSearchParams({ repository, ns: 'reg.example' })}`, {
    method: 'POST',
    headers: name === null ? {} : { authorization: basic(name) },
    body: JSON.stringify({ member, contents: [content], secret }),
  });
}

async function joined(number: number, name: string): Promise<JoinAnswer> {
  const answer = await askToJoin(number, name);
  expect(answer.status).toBe(200);
  return joinAnswerSchema.parse(await answer.json());
}

test('a root alone gives tickets to those whom the proxy lets read, and passes on its question to those it does not know', async () => {
  expect(await joined(1, 'alice')).toMatchObject({ places: [{ parent: null }], heartbeatMs: 60_000 });
  expect(await joined(2, 'alice')).toMatchObject({ places: [{ parent: { address: '10.0.0.1:6012' } }] });
  expect(await joined(3, 'bob')).toMatchObject({ places: [], refused: [content] });
  const unasked = await askToJoin(3, null);
  expect(unasked.status).toBe(401);
  // The proxy's own, where tokens are to be had.
  expect(unasked.headers.get('www-authenticate')).toContain(`realm="${proxy.url}/dadi/v1/token"`);
  expect((await askToJoin(3, 'alice', '../../dadi')).status).toBe(400);
  const asked = upstream.requests.length;
  await joined(4, 'alice');
  expect(upstream.requests.length).toBe(asked);
  expect(await (await fetch(`${root.adminUrl}/dadi/v1/mesh`)).json()).toMatchObject({ members: 3, depth: 2 });
  expect(await (await fetch(`${root.adminUrl}/metrics`)).text()).toContain('\ndadi_root_mesh_members 3\n');
});

test('sessions survive a restart of the root, and without the proxy nobody new gets in', async () => {
  const { session } = await joined(1, 'alice');
  expect(await root.stop()).toBe(0);
  root = await RootProcess.start();
  const leave = await fetch(`${root.url}/dadi/v1/mesh/leave`, {
    method: 'POST',
    headers: { authorization: `Bearer ${session}` },
    body: JSON.stringify({ id: memberIdOf(secretOf(1)), contents: [] }),
  });
  expect(leave.status).toBe(200);
  await proxy.stop();
  expect(await errorOf(await askToJoin(2, 'alice'))).toMatchObject({ status: 503, code: 'UNAVAILABLE' });
  await proxy.start();
});
