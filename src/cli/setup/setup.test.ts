import { spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { requireCapability } from '../../../test/support/capabilities.ts';
import { run } from '../../../test/support/processes.ts';
import { setupCommand } from '../setup.ts';

const CONTAINERD = '/etc/containerd/config.toml';
const DOCKER = '/etc/docker/daemon.json';
const PODMAN = '/etc/containers/registries.conf.d/90-dadi.conf';
/** As Debian's package has it. */
const DEBIAN = `version = 2

[plugins]
  [plugins."io.containerd.grpc.v1.cri"]
    [plugins."io.containerd.grpc.v1.cri".cni]
      bin_dir = "/usr/lib/cni" # theirs
`;

let root: string;

beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'dadi-setup-'));
});

afterEach(() => rmSync(root, { recursive: true }));

/** `dadi setup ARGS`, in this process. */
async function setUp(...args: readonly string[]) {
  const written = vi.spyOn(process.stdout, 'write').mockReturnValue(true);
  try {
    await setupCommand()
      .exitOverride()
      .parseAsync([...args, '--root', root, '--json'], { from: 'user' });
    return JSON.parse(written.mock.calls.map(([text]) => text).join('')) as Result;
  } finally {
    written.mockRestore();
  }
}

interface Result {
  readonly files: readonly { readonly path: string; readonly what: string; readonly content: string }[];
  readonly next: string | null;
}

const read = (path: string) => readFileSync(join(root, path), 'utf8');

function write(path: string, text: string | Buffer): void {
  mkdirSync(dirname(join(root, path)), { recursive: true });
  writeFileSync(join(root, path), text);
}

/** All files with their content. */
function tree(): Record<string, string> {
  const files = readdirSync(root, { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile());
  return Object.fromEntries(
    files.map(({ parentPath, name }) => {
      const path = join(parentPath, name);
      return [path.slice(root.length), readFileSync(path, 'utf8')];
    }),
  );
}

describe.each([
  { runtime: 'containerd', path: CONTAINERD, texts: [null, DEBIAN] },
  {
    runtime: 'docker',
    path: DOCKER,
    texts: [null, '{ "debug":true,\n    "registry-mirrors": ["https://a.example"] }'],
  },
  { runtime: 'podman', path: PODMAN, texts: [null] },
])('dadi setup $runtime', ({ runtime, path, texts }) => {
  test.each(texts)(
    'done twice is as done once, and undone it is as it was, byte for byte: %j',
    async (text) => {
      if (text !== null) write(path, text);
      const before = tree();
      const printed = await setUp(runtime, '--print');
      expect(tree()).toEqual(before);
      const first = await setUp(runtime);
      expect(first.next).not.toBeNull();
      const once = tree();
      for (const file of printed.files) expect(once[file.path]).toBe(file.content);
      const second = await setUp(runtime);
      expect(second.files.map(({ what }) => what)).toEqual(second.files.map(() => 'unchanged'));
      expect(second.next).toBeNull();
      expect(tree()).toEqual(once);
      // Another mirror takes the place of the first.
      await setUp(runtime, '--mirror', 'http://127.0.0.1:7000');
      expect(Object.values(tree()).join()).not.toContain('"http://127.0.0.1:6010"');
      await setUp(runtime, '--undo');
      expect(tree()).toEqual(before);
      expect((await setUp(runtime, '--undo')).files).toEqual([]);
    },
  );
});

test('undone after others have changed a file, what they wrote stays and what was set goes', async () => {
  write(CONTAINERD, DEBIAN);
  write(DOCKER, '{"debug": true}');
  for (const runtime of ['containerd', 'docker', 'podman']) await setUp(runtime);
  write(CONTAINERD, read(CONTAINERD).replace('# theirs', '# changed'));
  write(DOCKER, read(DOCKER).replace('true', 'false'));
  write(PODMAN, `${read(PODMAN)}# theirs\n`);
  for (const runtime of ['containerd', 'docker']) await setUp(runtime, '--undo');
  expect(read(CONTAINERD).trim()).toBe(DEBIAN.replace('# theirs', '# changed').trim());
  expect(JSON.parse(read(DOCKER))).toEqual({ debug: false });
  expect((await setUp('podman', '--undo')).files).toEqual([{ path: PODMAN, what: 'left' }]);
  expect(read(PODMAN)).toContain('# theirs');
});

test('what it cannot bring together is refused by name, and nothing is written', async () => {
  const CRI = 'plugins."io.containerd.grpc.v1.cri"';
  for (const [path, text, runtime, reason] of [
    [CONTAINERD, 'root = "/x"\n', 'containerd', /version 1.*--print/],
    [CONTAINERD, 'version = 3\n', 'containerd', /version 3/],
    [
      CONTAINERD,
      `version = 2\n[${CRI}.registry.mirrors."docker.io"]\nendpoint = ["https://a"]\n`,
      'containerd',
      /line 3 .*registry\.mirrors/,
    ],
    [
      CONTAINERD,
      `version = 2\n[${CRI}.registry.configs."a.example".tls]\nca_file = "/ca"\n`,
      'containerd',
      /line 3 .*registry\.configs with tls/,
    ],
    [
      CONTAINERD,
      `version = 2\n[${CRI}.registry.configs]\n"a.example" = { tls = { ca_file = "/ca" } }\n`,
      'containerd',
      /line 3 .*registry\.configs with tls/,
    ],
    [CONTAINERD, `version = 2\n[${CRI}]\nregistry = { config_path = "" }\n`, 'containerd', /line 3/],
    ['/etc/containerd/certs.d/_default/hosts.toml', 'server = "https://a"\n', 'containerd', /--registry/],
    [DOCKER, '[]', 'docker', /not a JSON object/],
    [DOCKER, '{"registry-mirrors": "https://a"}', 'docker', /registry-mirrors .* not a list/],
    [
      '/etc/containers/registries.conf',
      '[[registry]]\nprefix = "quay.io"\n',
      'podman',
      /quay\.io.*--registry/,
    ],
    [
      '/etc/containers/registries.conf.d/50-corp.conf',
      '[[registry]]\nlocation = "ghcr.io"\nblocked = true\n',
      'podman',
      /50-corp\.conf has .*ghcr\.io.*--registry/,
    ],
    [DOCKER, Buffer.from('{ "data-root": "/\xe9t\xe9" }', 'latin1'), 'docker', /daemon\.json is not UTF-8/],
  ] as const) {
    write(path, text);
    const before = tree();
    await expect(setUp(runtime), String(text)).rejects.toThrow(reason);
    expect(tree()).toEqual(before);
    rmSync(join(root, path));
  }
});

test("a config_path that is there is where the mirror's hosts are written, for the registries that are named", async () => {
  const { path } = { path: '[plugins."io.containerd.grpc.v1.cri".registry]\nconfig_path = "/etc/certs"\n' };
  write(CONTAINERD, `version = 2\n${path}`);
  await setUp('containerd', '--registry', 'docker.io', 'reg.example:5000');
  expect(Object.keys(tree()).filter((name) => name.includes('hosts.toml'))).toEqual([
    '/etc/certs/docker.io/hosts.toml',
    '/etc/certs/reg.example:5000/hosts.toml',
  ]);
  expect(statSync(join(root, '/var/lib/dadi-mirror/setup/containerd.json')).mode & 0o077).toBe(0);
});

test.skipIf(!requireCapability('containerd'))(
  'containerd reads what was written as it is meant',
  async () => {
    write(CONTAINERD, DEBIAN);
    await setUp('containerd', '--socket', '/run/x.sock');
    const { stdout } = await run('containerd', ['--config', join(root, CONTAINERD), 'config', 'dump']);
    expect(stdout).toMatch(/\[proxy_plugins\.dadi\]\s+address = "\/run\/x\.sock"\s+type = "snapshot"/);
    for (const line of [
      'snapshotter = "dadi"',
      'disable_snapshot_annotations = false',
      'config_path = "/etc/containerd/certs.d"',
      // Of the file as it was.
      'bin_dir = "/usr/lib/cni"',
    ]) {
      expect(stdout).toContain(line);
    }
  },
);

test("containerd's credentials for registries stay where they are", async () => {
  const auth = '[plugins."io.containerd.grpc.v1.cri".registry.configs."a.example".auth]\nusername = "a"\n';
  write(CONTAINERD, `version = 2\n${auth}`);
  await setUp('containerd');
  expect(read(CONTAINERD)).toContain(auth);
});

test("links of a host's image lead nowhere outside it, and stay links when all is undone", async () => {
  const outside = join(root, 'outside');
  const own = root;
  root = join(root, 'image');
  try {
    mkdirSync(outside);
    writeFileSync(join(outside, 'daemon.json'), '{"mine": true}');
    write('/srv/config.toml', DEBIAN);
    for (const [path, target] of [
      [CONTAINERD, '/srv/config.toml'],
      // To what is not there, in the image.
      [DOCKER, join(outside, 'daemon.json')],
      ['/etc/containers', '../../../../../srv/containers'],
    ] as const) {
      mkdirSync(dirname(join(root, path)), { recursive: true });
      symlinkSync(target, join(root, path));
    }
    const before = tree();
    for (const runtime of ['containerd', 'docker', 'podman']) await setUp(runtime);
    expect(tree()['/srv/config.toml']).toContain('[proxy_plugins.dadi]');
    expect(tree()['/srv/containers/registries.conf.d/90-dadi.conf']).toContain('docker.io');
    expect(tree()[join(outside, 'daemon.json')]).toContain('registry-mirrors');
    expect(readFileSync(join(outside, 'daemon.json'), 'utf8')).toBe('{"mine": true}');
    for (const runtime of ['containerd', 'docker', 'podman']) await setUp(runtime, '--undo');
    expect(tree()).toEqual(before);
    for (const path of [CONTAINERD, DOCKER, '/etc/containers']) {
      expect(lstatSync(join(root, path)).isSymbolicLink(), path).toBe(true);
    }
  } finally {
    root = own;
  }
});

test('of two set-ups at the same time one waits for the other', async () => {
  write(DOCKER, '{}');
  const other = spawn('flock', [root, 'sh', '-c', 'echo has it; cat > "$0"', join(root, DOCKER)], {
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  const ended = once(other, 'exit');
  await once(other.stdout, 'data');
  const mine = setUp('docker');
  const waits = new RegExp(`-> FLOCK .*:${statSync(root).ino} `);
  await vi.waitFor(() => expect(readFileSync('/proc/locks', 'utf8')).toMatch(waits), { timeout: 10_000 });
  other.stdin.end('{"debug": true}');
  await Promise.all([mine, ended]);
  expect(JSON.parse(read(DOCKER))).toMatchObject({
    debug: true,
    'registry-mirrors': ['http://127.0.0.1:6010'],
  });
});

test("docker's other mirrors and settings stay, behind ours", async () => {
  write(DOCKER, '{"debug": true, "registry-mirrors": ["https://a.example"]}');
  await setUp('docker');
  expect(JSON.parse(read(DOCKER))).toEqual({
    debug: true,
    'registry-mirrors': ['http://127.0.0.1:6010', 'https://a.example'],
  });
});

test('set up for other registries, the files of the earlier ones go', async () => {
  write(CONTAINERD, DEBIAN);
  const hosts = () => Object.keys(tree()).filter((name) => name.endsWith('hosts.toml'));
  for (const name of ['quay.io', 'ghcr.io']) {
    await setUp('containerd', '--registry', name);
    expect(hosts()).toEqual([`/etc/containerd/certs.d/${name}/hosts.toml`]);
  }
});
