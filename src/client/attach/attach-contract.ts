import type { FsType } from '../image/fs-type.ts';
import type { BlockDevice } from '../nbd/nbd-connection.ts';

/** How a device becomes a mounted file system: EROFS from a FUSE file, a loop device on such a file, kernel NBD. */
export type AttachMethod = 'file' | 'loop' | 'nbd';

export interface AttachOptions {
  readonly device: BlockDevice;
  readonly fsType: FsType;
  /** A directory of this attachment's own, which must exist, and which only this user may write to. */
  readonly workDirectory: string;
  /** The directory to mount on, without symbolic links. */
  readonly target: string;
  /** Told of each read that failed: its reader learns no more than EIO. */
  readonly onReadError?: (error: unknown, offset: number, lengthBytes: number) => void;
  /**
   * What becomes of reads when this process is killed: they `wait` for one that resumes the attachment, or `fail` with
   * EIO, as all later ones do.
   */
  readonly whenKilled?: 'wait' | 'fail';
  readonly signal?: AbortSignal;
}

/** A device that this process serves, mounted. */
export interface Attachment {
  readonly method: AttachMethod;
  readonly target: string;
  /**
   * Resolves when the kernel has let go of the device and nothing is left of the attachment, by {@link detach} or
   * because it was taken down by somebody else; or it was released. Rejects with what of it could not be taken down:
   * {@link detach} tries that again.
   */
  readonly ended: Promise<void>;
  /**
   * Unmounts and takes everything down. Lazily: resolves when the directory is free; who was in it is served on until
   * it leaves, then `ended` resolves. What is already gone is fine.
   * @throws ClientError ERR_MOUNT_BUSY (then all stays as it is) unless lazy; ERR_DETACH_FAILED
   */
  detach(options: { readonly lazy: boolean }): Promise<void>;
  /** Stops serving but leaves the mount with its holder: reads wait for a process that resumes it. */
  release(): Promise<void>;
}
