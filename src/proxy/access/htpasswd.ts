import { readFile } from 'node:fs/promises';
import { ConfigError } from '../../config/errors.ts';

/** Bcrypt hashes by user name. */
export type Passwords = ReadonlyMap<string, string>;

const BCRYPT = /^\$2[aby]\$(\d\d)\$[./A-Za-z0-9]{53}$/;
/** Each step doubles the time: at 16, a guess takes seconds of a core. */
const MAX_COST = 15;

/**
 * Reads a password file as `htpasswd -B` writes it.
 * @throws ConfigError that names file, line and remedy
 */
export async function readHtpasswd(path: string): Promise<Passwords> {
  let text: string;
  try {
    text = await readFile(path, 'utf8');
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new ConfigError(`access.htpasswd: cannot read ${path} (${reason})`, { cause });
  }
  return parseHtpasswd(text, path);
}

/** @throws ConfigError, as {@link readHtpasswd} */
export function parseHtpasswd(text: string, path: string): Passwords {
  const passwords = new Map<string, string>();
  for (const [index, line] of text.split(/\r?\n/).entries()) {
    if (line.trim() === '' || line.startsWith('#')) continue;
    const refuse = (what: string) =>
      new ConfigError(
        `access.htpasswd: ${path}, line ${index + 1}: ${what}; write it with "htpasswd -B ${path} USER"`,
      );
    const colon = line.indexOf(':');
    if (colon < 1) throw refuse('there is no USER:HASH');
    const [user, hash] = [line.slice(0, colon), line.slice(colon + 1).trim()];
    const cost = BCRYPT.exec(hash)?.[1];
    if (cost === undefined) throw refuse(`the password of ${user} is not hashed with bcrypt`);
    if (Number(cost) > MAX_COST) throw refuse(`the cost of ${user}'s hash is over ${MAX_COST}`);
    passwords.set(user, hash);
  }
  if (passwords.size === 0) throw new ConfigError(`access.htpasswd: ${path} holds no user`);
  return passwords;
}
