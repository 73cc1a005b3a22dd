/** What agents and roots say to each other: JSON over HTTP, on the path {@link ROOT_PATH} of a root. */
import { z } from 'zod';
import { type Digest, isDigest } from '../oci/digest.ts';

export const ROOT_PATH = '/dadi/v1/mesh';
/** Of an agent, for its children: `GET PEER_PATH/chunks/TABLE?first=N&count=N`. */
export const PEER_PATH = '/dadi/v1/peer';

const digest = z.custom<Digest>((value) => typeof value === 'string' && isDigest(value), 'is no digest');
/** Of a host in the mesh: made anew by each start of its daemon (`memberIdOf`), so that a restarted one is another one. */
const memberId = z.string().regex(/^[0-9a-f]{32}$/);
/** HOST:PORT at which other hosts reach it. */
const address = z
  .string()
  .regex(/^(\[[0-9a-f:]+\]|[\w.-]+):\d{1,5}$/i)
  .max(260);
const zone = z.string().max(128);
const count = z.int().nonnegative();
/** Until the member's next heartbeat: the more members a root has, the longer. Silent for three of them, it is gone (if most are, for twelve). */
const heartbeatMs = z.int().positive();

/** A host as others reach it. */
export const peerSchema = z.strictObject({ id: memberId, address });
export type Peer = Readonly<z.output<typeof peerSchema>>;

/** A host's word about itself. */
export const announcementSchema = z.strictObject({
  id: memberId,
  address,
  /** Hosts of one zone are near each other; '' for all who name none. */
  zone,
  /** What it may send to others in a second. */
  uploadBytesPerSecond: z.int().positive(),
});
export type Announcement = Readonly<z.output<typeof announcementSchema>>;

/** What a tree is for: the chunks of a blob by one chunk table. A parent that knows the table for another blob refuses. */
export const contentSchema = z.strictObject({ blob: digest, table: digest });
export type Content = Readonly<z.output<typeof contentSchema>>;

/** What names a content in maps. */
export function contentKey({ blob, table }: Content): string {
  return `${blob} ${table}`;
}

/** Contents in one join: more are asked for by several. */
export const MAX_JOINED = 256;

/** POST ROOT_PATH/join?repository=NAME[&ns=REGISTRY], in the name of whoever may read the blobs. */
export const joinRequestSchema = z.strictObject({
  member: announcementSchema,
  contents: z.array(contentSchema).min(1).max(MAX_JOINED),
  /** That the member's id is made of (`memberIdOf`): nobody else gets a session by that id, nor by it that one's tickets. */
  secret: z.string().regex(/^[0-9a-f]{64}$/),
});
/** What it says but for the member's secret. */
export type JoinRequest = Omit<z.output<typeof joinRequestSchema>, 'secret'>;

/** Where a member stands in a tree. */
export const placeSchema = z.strictObject({
  ...contentSchema.shape,
  /** Null: it is at the top, and reads from the proxies. */
  parent: peerSchema.nullable(),
  /** In other branches of the same tree, the nearest one first. */
  alternates: z.array(peerSchema),
  /** 1 at the top. */
  depth: z.int().positive(),
  /** For the parent and the alternates: proves the right to this content. */
  ticket: z.string(),
  ticketEndsInMs: count,
});
export type Place = Readonly<z.output<typeof placeSchema>>;

export const joinAnswerSchema = z.strictObject({
  places: z.array(placeSchema),
  /** Contents that this member may not read, or that the root does not take. */
  refused: z.array(z.strictObject({ ...contentSchema.shape, reason: z.string() })),
  /** For the member's further requests, as `Authorization: Bearer`. */
  session: z.string(),
  heartbeatMs,
});
export type JoinAnswer = z.output<typeof joinAnswerSchema>;

/** What came over one edge of a tree since the last heartbeat. */
export const edgeReportSchema = z.strictObject({
  table: digest,
  /** Null: the proxies. */
  from: memberId.nullable(),
  bytes: count,
  /** From the request to the first chunk, mean; null if nothing was asked. */
  latencyMs: z.number().nonnegative().nullable(),
});
export type EdgeReport = z.output<typeof edgeReportSchema>;

/** POST ROOT_PATH/heartbeat. */
export const heartbeatSchema = z.strictObject({
  member: announcementSchema,
  /** All that it is in. */
  contents: z.array(contentSchema).max(4096),
  edges: z.array(edgeReportSchema).max(8192),
});
export type Heartbeat = z.output<typeof heartbeatSchema>;

export const heartbeatAnswerSchema = z.strictObject({
  /** New ones: the parent has changed, or the ticket ends soon. */
  places: z.array(placeSchema),
  /** Contents in which the root does not know the member (it was restarted): to be joined again. */
  unknown: z.array(contentSchema),
  heartbeatMs: heartbeatMs.default(5_000),
});
export type HeartbeatAnswer = z.output<typeof heartbeatAnswerSchema>;

/** POST ROOT_PATH/lost: a parent or alternate is left; the answer is the member's new place (`placeSchema`). */
export const lostSchema = z.strictObject({
  id: memberId,
  ...contentSchema.shape,
  lost: memberId,
  reason: z.enum(['unreachable', 'slow', 'wrong-bytes', 'refused']),
});
export type Lost = z.output<typeof lostSchema>;

/** POST ROOT_PATH/leave: of these contents; of all, if there are none. */
export const leaveSchema = z.strictObject({ id: memberId, contents: z.array(contentSchema).max(4096) });
export type Leave = z.output<typeof leaveSchema>;

/** What a host answers that sends as much as it can: who else may have the content. */
export const busySchema = z.strictObject({ alternates: z.array(peerSchema).max(8) });

/** GET ROOT_PATH/keys: public keys (Ed25519, as JWK) that tickets of this root are checked with. */
export const keysSchema = z.strictObject({
  keys: z.array(
    z.strictObject({ kty: z.literal('OKP'), crv: z.literal('Ed25519'), kid: z.string(), x: z.string() }),
  ),
});
export type RootKeys = z.output<typeof keysSchema>;
