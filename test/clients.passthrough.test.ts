import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { requireCapability } from './support/capabilities.ts';
import { clientImage, startFilledRegistry } from './support/client-images.ts';
import { Containerd } from './support/containerd.ts';
import { ContainersTools } from './support/containers-tools.ts';
import { Dockerd } from './support/dockerd.ts';
import {
  type PulledImage,
  pulled,
  pulledByContainerd,
  pullWithDocker,
  pullWithPodman,
} from './support/pulled-images.ts';
import type { Registry } from './support/registry.ts';
import { TestProxy } from './support/test-proxy.ts';

const canRun = requireCapability('root', 'containerd', 'docker', 'podman', 'registry', 'htpasswd', 'openssl');

interface Account {
  readonly username: string;
  readonly password: string;
}

/** The registry's own, who may read all. */
const ALICE = { username: 'alice', password: 'secret' };
/** Without an account where the registry wants Basic; with tokens, with rights to `bobs/` only. */
const BOB = { username: 'bob', password: 'pass' };
const REFUSED = /unauthorized|denied|authentication required|authorization failed/i;

let scratch: string;
let tools: ContainersTools;
let containerd: Containerd;
let daemon: Dockerd;

interface Client {
  /** Remembers it for `HOST:PORT`, if the client has a place for that. */
  login(host: string, account: Account): Promise<unknown>;
  /** `HOST:PORT/REPOSITORY:TAG`. Afterwards the image is gone, or in a namespace that is not used again. */
  pull(name: string, account: Account): Promise<PulledImage>;
}

const authFile = ({ username }: Account) => [
  '--authfile',
  join(scratch, `${username}.json`),
  '--tls-verify=false',
];
const loginFlags = ({ username, password }: Account) => ['--username', username, '--password', password];

const CLIENTS: Readonly<Record<string, Client>> = {
  'podman with an authfile': {
    login: (host, account) => tools.podman('login', ...authFile(account), ...loginFlags(account), host),
    pull: (name, account) => pullWithPodman(tools, name, ...authFile(account)),
  },
  'ctr with --user': {
    login: async () => {},
    pull: async (name, { username, password }) =>
      pulledByContainerd(containerd, name, await containerd.pull(name, `${username}:${password}`)),
  },
  'docker after a login': {
    login: (host, account) => daemon.docker('login', ...loginFlags(account), host),
    pull: async (name) => {
      const image = await pullWithDocker(daemon, name);
      await daemon.docker('rmi', name);
      return image;
    },
  },
};

describe.skipIf(!canRun)('a proxy that asks upstream who may read', () => {
  beforeAll(async () => {
    scratch = mkdtempSync(join(tmpdir(), 'dadi-u-'));
    tools = new ContainersTools(join(scratch, 'tools'), '');
    [containerd, daemon] = await Promise.all([
      Containerd.start(join(scratch, 'c')),
      Dockerd.start(join(scratch, 'd'), {}),
    ]);
  });

  afterAll(async () => {
    await daemon?.remove();
    await containerd?.stop();
    await tools?.remove();
    rmSync(scratch, { recursive: true });
  });

  describe.each(['token', 'basic'] as const)('of a registry with %s authentication', (auth) => {
    const image = clientImage(auth === 'token' ? 61 : 62);
    let registry: Registry;
    let proxy: TestProxy;

    beforeAll(async () => {
      const accounts = auth === 'token' ? [{ ...BOB, repositories: 'bobs/' }] : [];
      registry = await startFilledRegistry(
        { dir: join(scratch, `registry-${auth}`), auth, accounts },
        { 'private/app:1': image, 'bobs/app:1': image },
      );
      proxy = await TestProxy.start({
        upstreams: [{ name: 'reg.example', url: registry.baseUrl.href }],
        access: { mode: 'passthrough' },
        conversion: { enabled: false },
      });
    });

    afterAll(async () => {
      await proxy?.remove();
      await registry?.stop();
    });

    // What credentials are good for depends on the repository: a login by itself is never refused.
    const pull = async (client: Client, repository: string, account: Account) => {
      await client.login(proxy.host, account);
      return { image: client.pull(`${proxy.host}/${repository}:1`, account) };
    };

    test.each(Object.entries(CLIENTS))(
      '%s: who has rights there has the image, who has none gets nothing',
      async (_name, client) => {
        const refused = async (account: Account) =>
          expect((await pull(client, 'private/app', account)).image).rejects.toThrow(REFUSED);
        await refused(BOB);
        expect(await (await pull(client, 'private/app', ALICE)).image).toEqual(pulled(image));
        // Now the proxy has all of it.
        await refused(BOB);
        await refused({ ...ALICE, password: 'wrong' });
      },
    );

    if (auth === 'token') {
      test.each(Object.entries(CLIENTS))(
        '%s: rights to one repository are enough for that one',
        async (_name, client) => {
          expect(await (await pull(client, 'bobs/app', BOB)).image).toEqual(pulled(image));
        },
      );
    }
  });
});
