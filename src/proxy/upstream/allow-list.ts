import { isIP } from 'node:net';
import type { Reach } from '../../oci/registry-url.ts';

const LABEL = '[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?';
const NAME = new RegExp(`^(?<host>${LABEL}(?:\\.${LABEL})*)(?::(?<port>[1-9]\\d{0,4}))?$`);
const MAX_NAME_LENGTH = 260;

interface HostName {
  readonly host: string;
  readonly port: string | null;
}

/**
 * Which registries may be asked for although none is configured by that name. A pattern is a host, or `*.DOMAIN`
 * for all below a domain; a port must be named by the pattern. Addresses never match, however they are written.
 */
export class AllowList {
  readonly #patterns: readonly string[];

  /** Patterns that {@link isAllowPattern} takes. */
  constructor(patterns: readonly string[]) {
    this.#patterns = patterns;
  }

  /**
   * How far inside a registry of this name may stand, null if it may not be asked for. Private addresses are for
   * hosts that a pattern names in full: whoever rules a domain decides where names below it lead.
   * @param name in lower case
   */
  reachOf(name: string): Reach | null {
    const wanted = parseName(name);
    if (wanted === null) return null;
    if (this.#patterns.includes(name)) return 'private';
    return this.#patterns.some((pattern) => isBelow(pattern, wanted)) ? 'public' : null;
  }
}

/** Whether a text can stand in an {@link AllowList}. */
export function isAllowPattern(text: string): boolean {
  return parseName(text.replace(/^\*\./, '')) !== null;
}

function isBelow(pattern: string, { host, port }: HostName): boolean {
  if (!pattern.startsWith('*.')) return false;
  const domain = parseName(pattern.slice(2));
  return domain !== null && domain.port === port && host.endsWith(`.${domain.host}`);
}

/** Null for what is no name of a host: URLs read `0x7f.1` and `2130706433` as addresses, too. */
function parseName(text: string): HostName | null {
  const groups = text.length > MAX_NAME_LENGTH ? undefined : NAME.exec(text)?.groups;
  const host = groups?.['host'] ?? '';
  const port = groups?.['port'] ?? null;
  if (host === '' || Number(port ?? 0) > 65_535 || !URL.canParse(`https://${host}/`)) return null;
  const { hostname } = new URL(`https://${host}/`);
  return hostname === host && isIP(hostname) === 0 ? { host, port } : null;
}
