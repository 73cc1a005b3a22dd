import { type KeyObject, sign, verify } from 'node:crypto';
import { z } from 'zod';

/**
 * What a root signs: JSON Web Signatures in compact form (RFC 7515) with Ed25519 (RFC 8037, `alg` EdDSA). `typ` keeps the
 * kinds apart (RFC 8725, 3.11): one is never taken for the other.
 */
export type TokenType = 'dadi-ticket' | 'dadi-session';

/** The private key of a root, and the name by which others know its public one. */
export interface SigningKey {
  readonly kid: string;
  readonly privateKey: KeyObject;
}

/** Public keys by their `kid`. */
export type VerifyingKeys = ReadonlyMap<string, KeyObject>;

export type TokenErrorCode =
  | 'ERR_TOKEN_MALFORMED'
  /** Signed with a key that is not known here: perhaps of a root that has been set up anew. */
  | 'ERR_TOKEN_KEY_UNKNOWN'
  | 'ERR_TOKEN_SIGNATURE'
  | 'ERR_TOKEN_EXPIRED';

/** A ticket or session that proves nothing. */
export class TokenError extends Error {
  override readonly name = 'TokenError';
  readonly code: TokenErrorCode;

  constructor(code: TokenErrorCode, message: string) {
    super(message);
    this.code = code;
  }
}

/** Longer ones are nobody's: they are not looked at. */
const MAX_TOKEN_CHARS = 2048;
/** Clocks of hosts differ. */
const LEEWAY_MS = 60_000;
const SHAPE = /^([\w-]+)\.([\w-]+)\.([\w-]{86})$/;

const headerSchema = z.strictObject({ alg: z.literal('EdDSA'), typ: z.string(), kid: z.string() });
const expirySchema = z.object({ exp: z.int().nonnegative() });

/** @param endsAtMs since the epoch; it is rounded up to whole seconds */
export function signToken(
  type: TokenType,
  claims: Readonly<Record<string, string>>,
  endsAtMs: number,
  { kid, privateKey }: SigningKey,
): string {
  const payload = { ...claims, exp: Math.ceil(endsAtMs / 1000) };
  const signed = `${encode({ alg: 'EdDSA', typ: type, kid })}.${encode(payload)}`;
  return `${signed}.${sign(null, Buffer.from(signed), privateKey).toString('base64url')}`;
}

/**
 * What a root has signed, with the time until it holds.
 * @throws TokenError
 */
export function verifyToken<Claims>(
  type: TokenType,
  token: string,
  schema: z.ZodType<Claims>,
  keys: VerifyingKeys,
  nowMs: number,
): Claims & { readonly endsAtMs: number } {
  const parts = token.length > MAX_TOKEN_CHARS ? null : SHAPE.exec(token);
  if (parts === null) throw new TokenError('ERR_TOKEN_MALFORMED', `this is no ${type}`);
  const [, head = '', payload = '', signature = ''] = parts;
  const { kid, typ } = decode(head, headerSchema, type);
  if (typ !== type) throw new TokenError('ERR_TOKEN_MALFORMED', `this is no ${type}`);
  const key = keys.get(kid);
  if (key === undefined)
    throw new TokenError('ERR_TOKEN_KEY_UNKNOWN', `a ${type} of an unknown root (${kid})`);
  const isGenuine = verify(null, Buffer.from(`${head}.${payload}`), key, Buffer.from(signature, 'base64url'));
  if (!isGenuine) throw new TokenError('ERR_TOKEN_SIGNATURE', `a ${type} whose signature is wrong`);
  const endsAtMs = decode(payload, expirySchema, type).exp * 1000;
  if (nowMs >= endsAtMs + LEEWAY_MS) throw new TokenError('ERR_TOKEN_EXPIRED', `a ${type} that has ended`);
  return { ...decode(payload, schema, type), endsAtMs };
}

function encode(value: object): string {
  return Buffer.from(JSON.stringify(value)).toString('base64url');
}

function decode<T>(text: string, schema: z.ZodType<T>, type: TokenType): T {
  try {
    return schema.parse(JSON.parse(Buffer.from(text, 'base64url').toString('utf8')));
  } catch {
    throw new TokenError('ERR_TOKEN_MALFORMED', `this is no ${type}`);
  }
}
