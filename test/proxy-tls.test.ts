import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { connect } from 'node:tls';
import { pino } from 'pino';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { rootConfigSchema, startRoot } from '../src/p2p/root/root-server.ts';
import { requireCapability } from './support/capabilities.ts';
import { FakeRegistry } from './support/fake-registry.ts';
import { run } from './support/processes.ts';
import { TestProxy } from './support/test-proxy.ts';

const canRun = requireCapability('openssl', 'skopeo');
const patiently = { timeout: 30_000, interval: 200 };

let scratch: string;
let cert: string;
let key: string;
let upstream: FakeRegistry;
let proxy: TestProxy;

beforeEach(async () => {
  if (!canRun) return;
  scratch = mkdtempSync(join(tmpdir(), 'dadi-tls-'));
  // skopeo takes every key in a directory of certificates for a client's.
  [cert, key] = [join(scratch, 'trusted', 'ca.crt'), join(scratch, 'proxy.key')];
  await run('mkdir', [join(scratch, 'trusted')]);
  await makeCertificate('first');
  upstream = await FakeRegistry.start();
  proxy = await TestProxy.start({
    upstreams: [{ name: 'reg.example', url: upstream.url }],
    tls: { cert, key },
    access: { mode: 'passthrough' },
    conversion: { enabled: false },
  });
});

afterEach(async () => {
  if (!canRun) return;
  await proxy.remove();
  await upstream.stop();
  rmSync(scratch, { recursive: true });
});

async function makeCertificate(name: string): Promise<void> {
  const subject = ['-subj', `/CN=${name}`, '-addext', 'subjectAltName=IP:127.0.0.1'];
  const options = ['-x509', '-newkey', 'rsa:2048', '-nodes', '-days', '2', ...subject];
  await run('openssl', ['req', ...options, '-keyout', key, '-out', cert]);
}

/** The name in the certificate that a new connection is shown. */
async function shownName(address = proxy.host): Promise<unknown> {
  const [host, port] = address.split(':');
  return new Promise((resolve, reject) => {
    const socket = connect({ host, port: Number(port), rejectUnauthorized: false }, () => {
      resolve(socket.getPeerCertificate().subject.CN);
      socket.destroy();
    });
    socket.once('error', reject);
  });
}

function skopeo(tag: string, ...access: string[]): Promise<{ stdout: string }> {
  const flags = ['inspect', '--raw', ...access, '--no-creds'];
  return run('skopeo', ['--insecure-policy', ...flags, `docker://${proxy.host}/lib/a:${tag}`]);
}

describe.skipIf(!canRun)('with a certificate of its own', () => {
  test('a client that trusts it pulls, and logs in where TLS is', async () => {
    const image = upstream.putImage([Buffer.from('a layer')], '1');
    const { stdout } = await skopeo('1', `--cert-dir=${join(scratch, 'trusted')}`);
    expect(stdout).toBe(image.bytes.toString());
    await expect(skopeo('1')).rejects.toThrow(/certificate/);
  });

  test('new connections are shown the certificate that replaced it, and one that is broken changes nothing', async () => {
    expect(await shownName()).toBe('first');
    await makeCertificate('second');
    await vi.waitFor(async () => expect(await shownName()).toBe('second'), patiently);
    writeFileSync(cert, 'no certificate');
    const complaint = () => proxy.logged.find(({ level }) => level === 50);
    await vi.waitFor(() => expect(JSON.stringify(complaint())).toContain('cannot be used'), patiently);
    expect(await shownName()).toBe('second');
  });

  test('nor does a root of the mesh that runs alone have to be started again for a new certificate', async () => {
    const listen = '127.0.0.1:0';
    const settings = { listen, admin: null, proxy: proxy.url, tls: { cert, key }, dataDirectory: scratch };
    const root = await startRoot(rootConfigSchema.parse(settings), pino({ level: 'silent' }));
    try {
      const { host, port } = root.address;
      expect(await shownName(`${host}:${port}`)).toBe('first');
      await makeCertificate('second');
      await vi.waitFor(async () => expect(await shownName(`${host}:${port}`)).toBe('second'), patiently);
    } finally {
      await root.close();
    }
  });

  test('a certificate that cannot be used keeps the proxy from starting', async () => {
    for (const tls of [
      { cert: join(scratch, 'none'), key },
      { cert: key, key },
    ]) {
      await expect(TestProxy.start({ tls })).rejects.toThrow(/^tls.*: /);
    }
  });
});
