import type { Plan, ReadFile, SetupWishes } from './plan.ts';
import { SetupError } from './setup-error.ts';

const MAIN = '/etc/containers/registries.conf';
const DROP_IN = '/etc/containers/registries.conf.d/90-dadi.conf';
const DEFAULT_REGISTRIES = ['docker.io', 'quay.io', 'ghcr.io', 'registry.k8s.io'];

/** podman, buildah, skopeo, CRI-O: a file of its own, with the mirror for each registry. @throws SetupError */
export function planPodman(read: ReadFile, { mirror, registries }: SetupWishes): Plan {
  const names = registries.length > 0 ? registries : DEFAULT_REGISTRIES;
  const main = read(MAIN) ?? '';
  for (const name of names) {
    const escaped = name.replace(/[.]/g, '\\.');
    if (new RegExp(`^\\s*(?:prefix|location)\\s*=\\s*["']${escaped}["']`, 'm').test(main)) {
      throw new SetupError(
        `${MAIN} has a [[registry]] for ${name}, which a file beside it would replace: put the mirror there, as --print shows, and name the others (--registry)`,
      );
    }
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
