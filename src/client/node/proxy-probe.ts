import { request as requestHttp } from 'node:http';
import { request as requestHttps } from 'node:https';
import { ownTlsOptions, type RegistryTls } from '../../oci/registry-tls.ts';

const TIMEOUT_MS = 5_000;

/**
 * Whether a proxy answers at all, whatever it says.
 * @param url its path ends in a slash
 * @returns null if it does, else why not
 */
export function probeProxy(url: URL, tls: RegistryTls | null): Promise<string | null> {
  return new Promise((resolve) => {
    const target = new URL('v2/', url);
    const options = { method: 'GET', signal: AbortSignal.timeout(TIMEOUT_MS), agent: false } as const;
    const outgoing =
      url.protocol === 'https:'
        ? requestHttps(target, { ...options, ...ownTlsOptions(tls) })
        : requestHttp(target, options);
    outgoing.once('response', (incoming) => {
      incoming.destroy();
      resolve(null);
    });
    outgoing.once('error', (error) =>
      resolve(error.name === 'TimeoutError' ? `no answer within ${TIMEOUT_MS / 1000} s` : error.message),
    );
    outgoing.end();
  });
}
