import { parseChallenges } from '../../oci/registry-auth.ts';
import { isLoopback } from '../../oci/registry-url.ts';

/** Where dadi proxies give tokens, and we in their place. */
export const TOKEN_PATH = '/dadi/v1/token';
/** What may stand in a quoted parameter as it is. */
const PLAIN = /^[ !#-[\]-~]*$/;

/**
 * A proxy's challenge with our address for its token service: so credentials come by here, for reads that happen
 * long after the pull. Of other token services, and for clients on other hosts, it is left as it is: what is sent
 * to us is not encrypted.
 * @param challenge `WWW-Authenticate`
 * @param host the client's name for us
 */
export function ownChallenge(challenge: string, host: string | undefined): string {
  const url = URL.parse(`http://${host ?? ''}/`);
  if (url === null || host === undefined || !isLoopback(url)) return challenge;
  const [first, ...more] = parseChallenges(challenge);
  if (first === undefined || more.length > 0 || first.scheme !== 'bearer') return challenge;
  if (!URL.parse(first.parameters.get('realm') ?? '')?.pathname.endsWith(TOKEN_PATH)) return challenge;
  const parameters = new Map([...first.parameters, ['realm', `http://${url.host}${TOKEN_PATH}`]]);
  if (![...parameters.values()].every((value) => PLAIN.test(value))) return challenge;
  return `Bearer ${Array.from(parameters, ([name, value]) => `${name}="${value}"`).join(',')}`;
}
