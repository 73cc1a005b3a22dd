import { createPublicKey } from 'node:crypto';
import { z } from 'zod';
import { type Content, contentSchema, peerSchema, type RootKeys } from './mesh-protocol.ts';
import { type SigningKey, signToken, type VerifyingKeys, verifyToken } from './signed-tokens.ts';

/** What a ticket proves: that a root found this member to have the right to this content. */
export interface Ticket extends Content {
  /** The member that it was given to. */
  readonly member: string;
  /** Since the epoch. Some leeway is given for clocks that differ. */
  readonly endsAtMs: number;
}

const claimsSchema = z.object({ ...contentSchema.shape, sub: peerSchema.shape.id });

/** `endsAtMs` is rounded up to whole seconds. */
export function issueTicket({ blob, table, member, endsAtMs }: Ticket, key: SigningKey): string {
  return signToken('dadi-ticket', { blob, table, sub: member }, endsAtMs, key);
}

/**
 * What a ticket proves. Checking one takes some 0.1 ms: who is asked often by the same child remembers those that were good.
 * That the table is of this blob it does not prove: the parent compares with its own record.
 * @param nowMs since the epoch
 * @throws TokenError; with ERR_TOKEN_KEY_UNKNOWN the roots' keys may have to be asked for again
 */
export function verifyTicket(ticket: string, keys: VerifyingKeys, nowMs: number): Ticket {
  const { blob, table, sub, endsAtMs } = verifyToken('dadi-ticket', ticket, claimsSchema, keys, nowMs);
  return { blob, table, member: sub, endsAtMs };
}

/** The keys of a root's answer, for {@link verifyTicket}; those of several roots can be put together. */
export function verifyingKeys({ keys }: RootKeys): VerifyingKeys {
  return new Map(
    keys.map(({ kid, kty, crv, x }) => [kid, createPublicKey({ format: 'jwk', key: { kty, crv, x } })]),
  );
}
