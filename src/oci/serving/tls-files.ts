import { readFile } from 'node:fs/promises';
import { createSecureContext } from 'node:tls';
import { ConfigError } from '../../config/errors.ts';

/** Paths of PEM files. */
export interface TlsFiles {
  /** The certificate, and the chain behind it. */
  readonly cert: string;
  readonly key: string;
}

/** @throws ConfigError if they cannot be read or do not belong together */
export async function readTls({ cert, key }: TlsFiles): Promise<{ cert: Buffer; key: Buffer }> {
  const pair = { cert: await readPem('cert', cert), key: await readPem('key', key) };
  try {
    createSecureContext(pair);
  } catch (cause) {
    throw new ConfigError(
      `tls: ${cert} and ${key} cannot be used (${reasonOf(cause)}); they are to be PEM, and belong together`,
      { cause },
    );
  }
  return pair;
}

async function readPem(which: keyof TlsFiles, path: string): Promise<Buffer> {
  try {
    return await readFile(path);
  } catch (cause) {
    throw new ConfigError(`tls.${which}: cannot read ${path} (${reasonOf(cause)})`, { cause });
  }
}

function reasonOf(cause: unknown): string {
  return cause instanceof Error ? cause.message : String(cause);
}
