import { z } from 'zod';
import { isLoopback } from '../../oci/registry-url.ts';
import type { Plan, ReadFile, SetupWishes } from './plan.ts';
import { SetupError } from './setup-error.ts';

const CONFIG = '/etc/docker/daemon.json';
const MIRRORS = 'registry-mirrors';
const INSECURE = 'insecure-registries';

const objectSchema = z.record(z.string(), z.unknown());
const listSchema = z.array(z.string());

/** Docker: the mirror in front of others that are there. @throws SetupError */
export function planDocker(read: ReadFile, { mirror, registries }: SetupWishes): Plan {
  if (registries.some((name) => name !== 'docker.io')) {
    throw new SetupError('Docker mirrors only Docker Hub: leave --registry out');
  }
  const before = read(CONFIG);
  const settings = parse(before);
  const wanted: [string, string][] = [[MIRRORS, mirror.origin]];
  // Docker takes plain HTTP from this machine anyway.
  if (mirror.protocol === 'http:' && !isLoopback(mirror)) wanted.push([INSECURE, mirror.host]);
  const added: { key: string; value: string }[] = [];
  const changed = { ...settings };
  for (const [key, value] of wanted) {
    const list = listSchema.safeParse(changed[key] ?? []);
    if (!list.success)
      throw new SetupError(`${key} in ${CONFIG} is not a list of strings: put that right first`);
    if (list.data.some((one) => one.replace(/\/$/, '') === value)) continue;
    changed[key] = [value, ...list.data];
    added.push({ key, value });
  }
  const after = before !== null && added.length === 0 ? before : format(changed, before);
  return {
    files: [{ path: CONFIG, before, after, reversal: { kind: 'json', added } }],
    notes: ['Docker mirrors only Docker Hub, and unpacks what it pulls: it does not start containers lazily'],
  };
}

/** Takes values out of lists again. @throws SetupError */
export function withoutAdded(text: string, added: readonly { key: string; value: string }[]): string {
  const settings = { ...parse(text) };
  for (const { key, value } of added) {
    const list = listSchema.safeParse(settings[key]);
    if (!list.success) continue;
    const rest = list.data.filter((one) => one !== value);
    if (rest.length > 0) settings[key] = rest;
    else delete settings[key];
  }
  return format(settings, text);
}

function parse(text: string | null): Record<string, unknown> {
  if (text === null || text.trim() === '') return {};
  try {
    return objectSchema.parse(JSON.parse(text));
  } catch (cause) {
    throw new SetupError(`${CONFIG} is not a JSON object: put that right first`, { cause });
  }
}

/** Indented as it was. */
function format(settings: object, before: string | null): string {
  const indent = /^(?<indent>[ \t]+)"/m.exec(before ?? '')?.groups?.['indent'] ?? '  ';
  return `${JSON.stringify(settings, null, indent)}\n`;
}
