/** `6.12.3-cloud` is [6, 12]. */
export type KernelVersion = readonly [major: number, minor: number];

/** Linux mounts EROFS since then. */
export const EROFS_SINCE: KernelVersion = [5, 4];
/** Linux gives one process the descriptors of another since then (pidfd_getfd(2)): so mounts are taken up again. */
export const PIDFD_GETFD_SINCE: KernelVersion = [5, 6];
/** Linux lets its NBD devices have names since then, by which they are found again (NBD_ATTR_BACKEND_IDENTIFIER). */
export const NBD_NAMES_SINCE: KernelVersion = [5, 14];
/** Linux sends unanswered FUSE requests again when it is asked to since then (FUSE_NOTIFY_RESEND). */
export const FUSE_RESEND_SINCE: KernelVersion = [6, 9];
/** Linux mounts EROFS straight from a file, without a loop device, since then. */
export const EROFS_FROM_FILE_SINCE: KernelVersion = [6, 12];

/** @param release as uname(2) has it */
export function kernelVersion(release: string): KernelVersion {
  const [major = 0, minor = 0] = release.split('.').map((part) => Number.parseInt(part, 10));
  return [major, minor];
}

export function isSince([major, minor]: KernelVersion, [sinceMajor, sinceMinor]: KernelVersion): boolean {
  return major > sinceMajor || (major === sinceMajor && minor >= sinceMinor);
}
