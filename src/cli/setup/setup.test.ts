import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
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

function write(path: string, text: string): void {
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
      /line 2 .*registry\.mirrors/,
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
  ] as const) {
    write(path, text);
    const before = tree();
    await expect(setUp(runtime), text).rejects.toThrow(reason);
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
