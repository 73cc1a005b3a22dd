import type {
  Heartbeat,
  HeartbeatAnswer,
  JoinAnswer,
  JoinRequest,
  Leave,
  Lost,
  Place,
  RootKeys,
} from '../mesh-protocol.ts';
import type { Where } from './mesh.ts';

/**
 * How a host talks to roots, each named by its URL. A simulator brings another one. All throw RootError; when the signal
 * fires that, or its reason.
 */
export interface RootTransport {
  /** In the name of whoever may pull from the repository. */
  join(root: string, where: Where, request: JoinRequest, signal: AbortSignal): Promise<JoinAnswer>;
  heartbeat(root: string, session: string, beat: Heartbeat, signal: AbortSignal): Promise<HeartbeatAnswer>;
  /** The place in the tree from then on. */
  lost(root: string, session: string, lost: Lost, signal: AbortSignal): Promise<Place>;
  leave(root: string, session: string, leave: Leave, signal: AbortSignal): Promise<void>;
  keys(root: string, signal: AbortSignal): Promise<RootKeys>;
}

export type RootErrorCode =
  /** It does not answer, or is in trouble: another root may do. */
  | 'ERR_ROOT_UNREACHABLE'
  /** The session, or the credentials of a join, are not enough. */
  | 'ERR_ROOT_UNAUTHORIZED'
  /** It does not know the member in this tree: to be joined again. */
  | 'ERR_ROOT_UNKNOWN_MEMBER'
  /** It answers with what is no answer. */
  | 'ERR_ROOT_ANSWER';

/** A root that is of no help. */
export class RootError extends Error {
  override readonly name = 'RootError';
  readonly code: RootErrorCode;

  constructor(code: RootErrorCode, message: string, options?: ErrorOptions) {
    super(message, options);
    this.code = code;
  }
}
