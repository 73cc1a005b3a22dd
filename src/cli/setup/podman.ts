import type { ListNames, Plan, ReadFile, SetupWishes } from './plan.ts';
import { SetupError } from './setup-error.ts';

const MAIN = '/etc/containers/registries.conf';
const DROP_INS = '/etc/containers/registries.conf.d';
const DROP_IN = `${DROP_INS}/90-dadi.conf`;
const DEFAULT_REGISTRIES = ['docker.io', 'quay.io', 'ghcr.io', 'registry.k8s.io'];

/** podman, buildah, skopeo, CRI-O: a file of its own, with the mirror for each registry. @throws SetupError */
export function planPodman(read: ReadFile, { mirror, registries }: SetupWishes, list: ListNames): Plan {
  const names = registries.length > 0 ? registries : DEFAULT_REGISTRIES;
  const others = list(DROP_INS).filter((name) => name.endsWith('.conf'));
  for (const path of [MAIN, ...others.map((name) => `${DROP_INS}/${name}`)]) {
    if (path !== DROP_IN) refuseNamed(path, read(path) ?? '', names);
  }
  const blocks = names.map((name) =>
    [
      '[[registry]]',
      `prefix = "${name}"`,
      `location = "${name}"`,
      '[[registry.mirror]]',
      // The path tells the mirror which registry is meant: these programs do not.
      `location = "${mirror.host}/${name}"`,
      ...(mirror.protocol === 'http:' ? ['insecure = true'] : []),
      '',
    ].join('\n'),
  );
  const after = [
    '# Written by "dadi setup podman". What the mirror does not answer, the registry itself is asked for.\n',
    ...blocks,
  ].join('');
  return {
    files: [{ path: DROP_IN, before: read(DROP_IN), after, reversal: { kind: 'whole' } }],
    notes: [
      `mirrored: ${names.join(', ')}; others by --registry`,
      'these programs unpack what they pull: they do not start containers lazily',
    ],
  };
}

/** Of two [[registry]] tables for a name, these programs take the last file's, whole. @throws SetupError */
function refuseNamed(path: string, text: string, names: readonly string[]): void {
  const named = names.find((name) => {
    const escaped = name.replace(/[.]/g, '\\.');
    return new RegExp(`^\\s*(?:prefix|location)\\s*=\\s*["']${escaped}["']`, 'm').test(text);
  });
  if (named === undefined) return;
  throw new SetupError(
    `${path} has a [[registry]] for ${named}, and of two files only one would count: put the mirror there, as --print shows, and name the others (--registry)`,
  );
}
