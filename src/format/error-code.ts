/** What errors of Node, of libraries and ours carry: ENOENT, ERR_…; null if this one has none. */
export function errorCode(error: unknown): string | null {
  return error instanceof Error && 'code' in error && typeof error.code === 'string' ? error.code : null;
}

/** Whether a system call, ours or one of Node's, failed with one of these errors. */
export function isSystemError(error: unknown, ...codes: readonly string[]): boolean {
  const code = errorCode(error);
  return code !== null && codes.includes(code);
}
