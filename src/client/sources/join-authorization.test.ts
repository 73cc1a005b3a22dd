import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from 'vitest';
import { FakeRegistry } from '../../../test/support/fake-registry.ts';
import { TestProxy } from '../../../test/support/test-proxy.ts';
import { basicAuthorization } from '../../oci/credentials.ts';
import type { Digest } from '../../oci/digest.ts';
import { JoinAuthorization } from './join-authorization.ts';
import { SourceCredentials } from './source-credentials.ts';

const ALICE = basicAuthorization({ username: 'alice', password: 'secret' });
const WHERE = { registry: 'reg.example', repository: 'lib/a' };

let upstream: FakeRegistry;
let proxy: TestProxy;
let credentials: SourceCredentials;
let joins: JoinAuthorization;
let digest: Digest;

beforeAll(async () => {
  upstream = await FakeRegistry.start();
  upstream.intercept = ({ headers }, response) => {
    if (headers.authorization === ALICE) return false;
    response.writeHead(401, { 'www-authenticate': 'Basic realm="upstream"' }).end();
    return true;
  };
  digest = upstream.putBlob(Buffer.from('a layer'));
  proxy = await TestProxy.start({
    upstreams: [{ name: 'reg.example', url: upstream.url }],
    access: { mode: 'passthrough' },
    conversion: { enabled: false },
  });
});

afterAll(async () => {
  await proxy?.remove();
  await upstream?.stop();
});

beforeEach(() => {
  credentials = new SourceCredentials({ file: null, dockerConfig: null });
  joins = new JoinAuthorization(credentials, null);
});

afterEach(() => joins.close());

/** Asks the proxy for the blob as a member asks its root for places: anew with what its challenge asks for. */
async function statusOfRead(): Promise<number> {
  const ask = async (challenge: string | null) => {
    const signal = new AbortController().signal;
    const authorization = await joins.authorize(new URL(proxy.url), WHERE, challenge, signal);
    const headers = authorization === null ? {} : { authorization };
    const answer = await proxy.fetch(`/v2/lib/a/blobs/${digest}?ns=reg.example`, { method: 'HEAD', headers });
    return { status: answer.status, challenge: answer.headers.get('www-authenticate') };
  };
  const first = await ask(null);
  return first.challenge === null ? first.status : (await ask(first.challenge)).status;
}

test('a host joins in the name of whoever pulled the repository', async () => {
  credentials.remember('reg.example', 'lib/a', ALICE);
  expect(await statusOfRead()).toBe(200);
  // Now without being asked.
  const signal = new AbortController().signal;
  expect(await joins.authorize(new URL(proxy.url), WHERE, null, signal)).toMatch(/^(Basic|Bearer) /);
});

test('credentials of a pull of another repository are not shown', async () => {
  credentials.remember('reg.example', 'lib/b', ALICE);
  expect(await statusOfRead().catch((error) => error.code)).not.toBe(200);
});

test('what a caller sent is shown as it is, and only where it was sent for', async () => {
  credentials.remember('reg.example', 'lib/a', 'Bearer of-upstream');
  const signal = new AbortController().signal;
  const root = new URL(proxy.url);
  expect(await joins.authorize(root, WHERE, null, signal)).toBe('Bearer of-upstream');
  expect(await joins.authorize(root, { ...WHERE, repository: 'lib/b' }, null, signal)).toBeNull();
});
