import type { Logger } from 'pino';
import { ConfigError } from '../../config/errors.ts';
import { watchFiles } from '../../config/watched-files.ts';
import type { HttpSide } from './http-side.ts';
import { type Address, Listener, type ListenerOptions } from './listener.ts';
import { readTls, type TlsFiles } from './tls-files.ts';

interface ConfiguredListenerOptions extends Omit<ListenerOptions, 'tls'> {
  readonly log: Logger;
  /** Null for plain HTTP. The files are read again when they change. */
  readonly tls: TlsFiles | null;
}

/** A {@link Listener} whose certificate is that of the files. */
export type ConfiguredListener = Pick<Listener, 'address' | 'close'>;

/**
 * @param key of the configuration that names the address
 * @throws ConfigError if nobody can listen there, or the certificate cannot be used
 */
export async function openListener(
  http: HttpSide,
  address: Address,
  key: string,
  options: ConfiguredListenerOptions,
): Promise<ConfiguredListener> {
  const tls = options.tls === null ? null : await readTls(options.tls);
  const listener = await listen(http, address, key, { ...options, tls });
  const unwatch = watchTls(listener, options);
  return {
    address: listener.address,
    close: (drainMs) => {
      unwatch();
      return listener.close(drainMs);
    },
  };
}

async function listen(
  http: HttpSide,
  address: Address,
  key: string,
  options: ListenerOptions,
): Promise<Listener> {
  try {
    return await Listener.open(http, address, options);
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    const where = `${address.host}:${address.port}`;
    throw new ConfigError(`${key}: cannot listen on ${where} (${reason}); choose another address`, { cause });
  }
}

/** A certificate that cannot be used leaves the old one in place. */
function watchTls(listener: Listener, { tls, log }: ConfiguredListenerOptions): () => void {
  if (tls === null) return () => {};
  const reload = () =>
    readTls(tls).then(
      (context) => {
        listener.useCertificate(context);
        log.info(tls, 'the certificate was read again');
      },
      (err: unknown) => log.error({ err }, 'the certificate cannot be used: the one before holds on'),
    );
  return watchFiles([tls.cert, tls.key], reload);
}
