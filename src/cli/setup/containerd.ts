import type { FilePlan, Plan, ReadFile, SetupWishes } from './plan.ts';
import { SetupError } from './setup-error.ts';
import { startsWith, TomlDocument } from './toml-document.ts';
import { setValue, type TomlChange, type TomlSetting } from './toml-edit.ts';

const CONFIG = '/etc/containerd/config.toml';
const CERTS = '/etc/containerd/certs.d';
const CRI = ['plugins', 'io.containerd.grpc.v1.cri'];
const REGISTRY = [...CRI, 'registry'];
const CONFIG_PATH = [...REGISTRY, 'config_path'];

/**
 * containerd 1.6 and 1.7 (and 2, which reads files of version 2): the snapshotter as a proxy plugin and for the CRI,
 * the mirror in hosts.toml files. No drop-in file: containerd 1.6 takes a plugin's section from there in place of
 * the main file's, whole.
 * @throws SetupError
 */
export function planContainerd(read: ReadFile, { mirror, socket, registries }: SetupWishes): Plan {
  const before = read(CONFIG);
  const document = new TomlDocument(before ?? '');
  const version = document.entry(['version'])?.value ?? null;
  const hasContent = document.entries.length + document.headers.length > 0;
  if (version !== '2' && (version !== null || hasContent)) {
    throw new SetupError(
      `${CONFIG} is of version ${version ?? '1 (it names none)'}: only version 2 is changed here. Write it anew from "containerd config default", or put in what --print shows`,
    );
  }
  refuseOldRegistries(document);
  const configPath = stringOf(document.entry(CONFIG_PATH)?.value) ?? '';
  const certs = configPath.split(':')[0] || CERTS;
  const settings: TomlSetting[] = [
    { path: ['version'], value: 2 },
    { path: ['proxy_plugins', 'dadi', 'type'], value: 'snapshot' },
    { path: ['proxy_plugins', 'dadi', 'address'], value: socket },
    { path: [...CRI, 'containerd', 'snapshotter'], value: 'dadi' },
    { path: [...CRI, 'containerd', 'disable_snapshot_annotations'], value: false },
    ...(configPath === '' ? [{ path: CONFIG_PATH, value: CERTS }] : []),
  ];
  let after = before ?? '';
  const changes: TomlChange[] = [];
  for (const setting of settings) {
    const { text, change } = setValue(after, setting);
    after = text;
    if (change !== null) changes.push(change);
  }
  const config: FilePlan = { path: CONFIG, before, after, reversal: { kind: 'toml', changes } };
  const names = registries.length > 0 ? registries : ['_default'];
  const hosts = names.map((name) => planHosts(read, `${certs}/${name}/hosts.toml`, mirror));
  return { files: [config, ...hosts], notes: notesOf(document) };
}

function planHosts(read: ReadFile, path: string, mirror: URL): FilePlan {
  const before = read(path);
  const after = [
    '# Written by "dadi setup containerd". What the mirror does not answer, the registry itself is asked for.',
    `[host."${mirror.origin}"]`,
    '  capabilities = ["pull", "resolve"]',
    '',
  ].join('\n');
  if (before !== null && before !== after) {
    throw new SetupError(
      `${path} is there already: name the registries that are to be mirrored (--registry), or put into that file what --print shows`,
    );
  }
  return { path, before, after, reversal: { kind: 'whole' } };
}

/** containerd's CRI does not start with both. Credentials (`configs.NAME.auth`) it takes all the same. */
function refuseOldRegistries({ entries }: TomlDocument): void {
  const mirrors = [...REGISTRY, 'mirrors'];
  const configs = [...REGISTRY, 'configs'];
  // Empty tables, as containerd writes them itself, are no settings.
  const found = entries.find(({ path, value }) => {
    if (startsWith(path, mirrors)) return true;
    if (!startsWith(path, configs)) return false;
    const setting = path[configs.length + 1];
    return setting === undefined ? /\btls\b/.test(value) : setting === 'tls';
  });
  if (found === undefined) return;
  const old = startsWith(found.path, mirrors) ? 'mirrors' : 'configs with tls';
  throw new SetupError(
    `line ${found.line} of ${CONFIG} sets registry.${old}, which containerd does not take together with hosts.toml files: move that to ${CERTS}/REGISTRY/hosts.toml first`,
  );
}

function notesOf(document: TomlDocument): string[] {
  const notes: string[] = [];
  const disabled = document.entry(['disabled_plugins'])?.value ?? '';
  if (/["'](?:io\.containerd\.grpc\.v1\.)?cri["']/.test(disabled)) {
    notes.push(
      'the CRI is disabled in this file (disabled_plugins): only clients that name the snapshotter get it (ctr, nerdctl: --snapshotter dadi)',
    );
  }
  if (/["']/.test(document.entry(['imports'])?.value ?? '')) {
    notes.push(
      'this file imports others, and a section of a plugin there replaces the one here: "containerd config dump" shows what counts',
    );
  }
  return notes;
}

function stringOf(value: string | undefined): string | null {
  const text = /^(?:"([^"\\]*)"|'([^']*)')$/.exec(value ?? '');
  return text?.[1] ?? text?.[2] ?? null;
}
