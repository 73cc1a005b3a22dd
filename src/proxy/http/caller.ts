import type { IncomingHttpHeaders } from 'node:http';
import type { Credentials } from '../../oci/credentials.ts';

/** Who asks, as far as the request says so. Nothing has been checked. */
export type Caller =
  | { readonly kind: 'anonymous' }
  | { readonly kind: 'basic'; readonly credentials: Credentials }
  | { readonly kind: 'bearer'; readonly token: string };

const BEARER = /^bearer +([\w.~+/-]+=*)$/i;
const BASIC = /^basic +([\w+/-]+=*)$/i;
/** Nobody's name or password holds one; what reads C strings would stop there. */
const CONTROL = /\p{Cc}/u;

/** Reads `Authorization` (RFC 9110, 11.6.2). Null for one that is neither Basic nor Bearer, or not well formed. */
export function callerOf({ authorization }: IncomingHttpHeaders): Caller | null {
  if (authorization === undefined || authorization === '') return { kind: 'anonymous' };
  const token = BEARER.exec(authorization)?.[1];
  if (token !== undefined) return { kind: 'bearer', token };
  const encoded = BASIC.exec(authorization)?.[1];
  if (encoded === undefined) return null;
  const text = Buffer.from(encoded, 'base64').toString('utf8');
  const colon = text.indexOf(':');
  if (colon === -1 || CONTROL.test(text)) return null;
  const credentials = { username: text.slice(0, colon), password: text.slice(colon + 1) };
  // Podman and skopeo send this when they are asked for credentials and have none.
  if (credentials.username === '' && credentials.password === '') return { kind: 'anonymous' };
  return { kind: 'basic', credentials };
}
