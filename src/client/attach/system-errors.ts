import { SystemCallError } from '../../format/libc.ts';

/** Whether a system call failed with one of these errors. */
export function isSystemError(error: unknown, ...codes: readonly string[]): boolean {
  return error instanceof SystemCallError && codes.includes(error.code);
}

/** For `catch`: nothing was mounted there, or nothing is there any more. */
export function ignoreUnmounted(error: unknown): void {
  if (!isSystemError(error, 'EINVAL', 'ENOENT')) throw error;
}
