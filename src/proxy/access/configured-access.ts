import type { Logger } from 'pino';
import { watchFiles } from '../../config/watched-files.ts';
import { isLoopbackHost } from '../../oci/registry-url.ts';
import type { ProxyConfig } from '../config.ts';
import type { Opened } from '../opened.ts';
import type { Outages } from '../upstream/outages.ts';
import type { Upstreams } from '../upstream/upstreams.ts';
import { type Access, OpenAccess } from './access.ts';
import { BasicAccess } from './basic-access.ts';
import { PassthroughAccess } from './passthrough-access.ts';

interface Parts {
  readonly upstreams: Upstreams;
  readonly outages: Outages;
  readonly signal: AbortSignal;
  readonly log: Logger;
  readonly opened: Opened;
}

/**
 * Who may read, as the configuration says. A password file is read again whenever it changes.
 * @throws ConfigError
 */
export async function openAccess(
  { access, publicUrl, tls }: ProxyConfig,
  { upstreams, outages, signal, log, opened }: Parts,
): Promise<Access> {
  const own = upstreams.of.bind(upstreams);
  switch (access.mode) {
    case 'open':
      return new OpenAccess(own);
    case 'basic': {
      const basic = await BasicAccess.open(access.htpasswd, own);
      const reload = () =>
        basic.reload().then(
          () => log.info({ file: access.htpasswd }, 'the passwords were read again'),
          (err: unknown) => log.error({ err }, 'the passwords cannot be read: those read before hold on'),
        );
      opened.add(watchFiles([access.htpasswd], reload));
      return basic;
    }
    case 'passthrough': {
      const { decisionTtlMs, tokenSecret = null } = access;
      const scheme = tls === null ? 'http' : 'https';
      return new PassthroughAccess({
        decisionTtlMs,
        tokenSecret,
        publicUrl: publicUrl ?? null,
        scheme,
        own,
        outages,
        signal,
      });
    }
  }
}

/** Credentials that clients send in the clear can be read by anybody on their way. */
export function warnOfPlainCredentials({ access, tls, listen, publicUrl }: ProxyConfig, log: Logger): void {
  if (access.mode === 'open' || tls !== null || publicUrl?.startsWith('https:')) return;
  if (isLoopbackHost(listen.host)) return;
  log.warn(
    { mode: access.mode, listen },
    'CLIENTS SEND THEIR PASSWORDS IN THE CLEAR: set tls.cert and tls.key, or publicUrl if something in front ends TLS',
  );
}
