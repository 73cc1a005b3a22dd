export type ClientErrorCode =
  /** This machine lacks what attaching needs: a program, /dev/fuse, a right. */
  | 'ERR_ATTACH_UNSUPPORTED'
  /** A program or system call on the way to the mount failed. */
  | 'ERR_ATTACH_FAILED'
  /** Not everything could be taken down. */
  | 'ERR_DETACH_FAILED'
  /** Somebody uses the mounted directory: it stays mounted. */
  | 'ERR_MOUNT_BUSY'
  /** Nothing of ours is mounted there. */
  | 'ERR_MOUNT_NOT_FOUND'
  /** The directory to mount on is missing, no directory, or already a mount of ours. */
  | 'ERR_MOUNT_TARGET'
  /** A chunk cache's directory belongs to a process that is running. */
  | 'ERR_CACHE_IN_USE'
  /** A directory of ours is open to others. */
  | 'ERR_DIRECTORY_UNSAFE'
  /** The process that holds a mount ended, or does not answer. */
  | 'ERR_MOUNT_DAEMON'
  /** Another daemon has the run directory. */
  | 'ERR_NODE_RUNNING'
  /** A file that the mesh needs cannot be read. */
  | 'ERR_MESH_FILE'
  /** No daemon answers on its socket, or it refused. */
  | 'ERR_NODE_UNREACHABLE'
  /** The image has no form that can be read lazily, and none is being made. */
  | 'ERR_IMAGE_NOT_CONVERTED'
  | 'ERR_CONVERSION_FAILED'
  | 'ERR_CONVERSION_TIMEOUT'
  /** No dadi proxy is configured. */
  | 'ERR_NO_PROXY'
  /** A well-formed image of a kind that is not read here. */
  | 'ERR_IMAGE_UNSUPPORTED'
  /** Parts of the image contradict each other. */
  | 'ERR_IMAGE_INVALID';

/** What kept an image from being read, mounted or unmounted. */
export class ClientError extends Error {
  override readonly name = 'ClientError';
  readonly code: ClientErrorCode;

  constructor(code: ClientErrorCode, message: string, options?: ErrorOptions) {
    super(message, options);
    this.code = code;
  }
}
