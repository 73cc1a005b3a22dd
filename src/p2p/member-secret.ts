import { createHash, randomBytes } from 'node:crypto';

/** For one start of a daemon. */
export function newMemberSecret(): string {
  return randomBytes(32).toString('hex');
}

/**
 * The id of the member that has this secret. Others know ids, with their addresses, from their places; only who knows the
 * secret joins by the id, and so gets a session with which to ask for that member's tickets. Roots need not remember it.
 */
export function memberIdOf(secret: string): string {
  return createHash('sha256').update(secret).digest('hex').slice(0, 32);
}
