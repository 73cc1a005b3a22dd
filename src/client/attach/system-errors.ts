/** Whether a system call, ours or one of Node's, failed with one of these errors. */
export function isSystemError(error: unknown, ...codes: readonly unknown[]): boolean {
  return error instanceof Error && 'code' in error && codes.includes(error.code);
}

/** For `catch`: nothing was mounted there, or nothing is there any more. */
export function ignoreUnmounted(error: unknown): void {
  if (!isSystemError(error, 'EINVAL', 'ENOENT')) throw error;
}
