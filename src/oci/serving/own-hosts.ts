import { isIP } from 'node:net';
import { bareAddress } from '../registry-url.ts';
import type { ServedRequest } from './answer.ts';
import { RequestError } from './request-error.ts';

/** For programs that watch: they may come by any name, and nothing here is worth a page's trouble. */
const FOR_ANYBODY: ReadonlySet<string> = new Set(['/metrics', '/healthz', '/readyz']);

/**
 * Refuses requests by a host's name that is none of ours. A browser takes a page of `evil.example` and us for the same
 * site once that name leads to our address (DNS rebinding): `Origin` says nothing then, only `Host` does. Addresses and
 * names without a dot (`localhost`, a container's) are nobody's to give away.
 * @param hosts further names
 * @param advice what who is refused is told to look at
 */
export function refuseOtherHosts(
  hosts: readonly string[],
  advice: string,
): (request: Pick<ServedRequest, 'pathname' | 'headers'>) => void {
  const ours = new Set(hosts.map((host) => host.toLowerCase()));
  return ({ pathname, headers: { host = '' } }) => {
    if (FOR_ANYBODY.has(pathname)) return;
    const name = hostnameOf(host);
    if (name !== null && (isIP(bareAddress(name)) !== 0 || !name.includes('.') || ours.has(name))) return;
    throw new RequestError('DENIED', `${JSON.stringify(host)} is no name of this listener: ${advice}`);
  };
}

/** Null for what is no host. */
function hostnameOf(host: string): string | null {
  const url = `http://${host}/`;
  return host !== '' && URL.canParse(url) ? new URL(url).hostname.replace(/\.$/, '') : null;
}
