import { unwatchFile, watchFile } from 'node:fs';

/** Files are looked at so often: events of the file system do not tell of what is behind a link, as in Kubernetes. */
const INTERVAL_MS = 2_000;

/**
 * Calls `onChange` when a file is written or replaced.
 * @returns what ends it
 */
export function watchFiles(paths: readonly string[], onChange: () => void): () => void {
  const listener = (now: { mtimeMs: number; ino: number }, before: { mtimeMs: number; ino: number }) => {
    if (now.mtimeMs !== before.mtimeMs || now.ino !== before.ino) onChange();
  };
  for (const path of paths) watchFile(path, { interval: INTERVAL_MS, persistent: false }, listener);
  return () => {
    for (const path of paths) unwatchFile(path, listener);
  };
}
