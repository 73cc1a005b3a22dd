import { z } from 'zod';
import { MAX_SLOTS } from '../topology/slots.ts';

/** How trees are made; the same for all trees of a root. */
export const treeSettingsSchema = z.strictObject({
  /** Members of a tree that read from the proxies. */
  tops: z.int().min(1).max(16).default(1),
  /** Children that a member has at most. */
  maxFanOut: z.int().min(1).max(MAX_SLOTS).default(4),
  /** A member gets a child for each so much of the upload that it announces. */
  bytesPerSecondPerChild: z.int().positive().default(12_500_000),
  /** At least; a member that is silent for three is taken for gone. */
  heartbeatMs: z.int().min(100).max(60_000).default(5_000),
});
export type TreeSettings = Readonly<z.output<typeof treeSettingsSchema>>;

/** What all members together may cost a root. */
export interface RootLimits {
  readonly members: number;
  readonly trees: number;
  /** Of all members in all trees. */
  readonly seats: number;
  readonly seatsOfMember: number;
}

export const DEFAULT_LIMITS: RootLimits = {
  members: 50_000,
  trees: 50_000,
  seats: 500_000,
  seatsOfMember: 4_096,
};
