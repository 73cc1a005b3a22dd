export type SnapshotErrorCode =
  | 'ERR_SNAPSHOT_NOT_FOUND'
  | 'ERR_SNAPSHOT_EXISTS'
  /** The snapshot is not of the kind, or has not the children, that the call is for. */
  | 'ERR_SNAPSHOT_STATE'
  | 'ERR_SNAPSHOT_ARGUMENT'
  /** What the snapshot stands on cannot be mounted now. */
  | 'ERR_SNAPSHOT_UNAVAILABLE'
  /** Another process has the state directory or the socket. */
  | 'ERR_SNAPSHOTTER_IN_USE';

/** Why a call of the snapshots API was refused. */
export class SnapshotError extends Error {
  override readonly name = 'SnapshotError';
  readonly code: SnapshotErrorCode;

  constructor(code: SnapshotErrorCode, message: string, options?: ErrorOptions) {
    super(message, options);
    this.code = code;
  }
}
