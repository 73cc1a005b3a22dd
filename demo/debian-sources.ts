import { readFileSync } from 'node:fs';
import { run } from './process.ts';

/** Where this machine gets Debian packages from, for making a root file system of the same release. */
export interface DebianSources {
  /** Code name of the release, e.g. bookworm. */
  readonly suite: string;
  /** Lines of a sources.list. */
  readonly lines: readonly string[];
  /** apt settings of this machine that a mirror may need, e.g. a proxy. */
  readonly options: readonly string[];
}

const OPTIONS_WORTH_KEEPING =
  /^Acquire::(Check-Date|Check-Valid-Until|https?::(Proxy|CaInfo|Verify-Peer)\b.*) /i;

/**
 * Asks apt for the Debian archives among this machine's package sources.
 * @throws Error if it has none
 */
export async function debianSources(signal: AbortSignal): Promise<DebianSources> {
  const suite = /^VERSION_CODENAME=(.+)$/m.exec(readFileSync('/etc/os-release', 'utf8'))?.[1];
  if (suite === undefined) throw new Error('the demo image needs Debian: /etc/os-release names no code name');
  let lines = await knownArchives(signal);
  if (lines.length === 0) {
    await run('apt-get', ['update', '-qq'], { signal });
    lines = await knownArchives(signal);
  }
  if (lines.length === 0)
    throw new Error('apt knows no Debian archive on this machine (apt-get indextargets)');
  const settings = await run('apt-config', ['dump', '--no-empty', 'Acquire'], { signal });
  return { suite, lines, options: settings.split('\n').filter((line) => OPTIONS_WORTH_KEEPING.test(line)) };
}

async function knownArchives(signal: AbortSignal): Promise<readonly string[]> {
  const format = 'deb $(REPO_URI) $(RELEASE) $(COMPONENT)';
  const targets = await run(
    'apt-get',
    ['indextargets', '--format', format, 'Created-By: Packages', 'Origin: Debian', 'Component: main'],
    { signal },
  );
  return [...new Set(targets.split('\n').filter((line) => line !== ''))];
}
