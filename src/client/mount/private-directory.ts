import { mkdirSync, statSync } from 'node:fs';
import { getuid } from 'node:process';
import { ClientError } from '../errors.ts';

const WRITABLE_BY_OTHERS = 0o022;

/**
 * Makes a directory that only this user may enter, or takes one that is there. Who else could write to it could
 * put links and sockets in our way, and other bytes under what has been verified.
 * @throws ClientError ERR_DIRECTORY_UNSAFE if it is somebody else's, or others may write to it; the system's error
 */
export function makePrivateDirectory(path: string): void {
  mkdirSync(path, { recursive: true, mode: 0o700 });
  const { uid, mode } = statSync(path);
  if (uid === getuid?.() && (mode & WRITABLE_BY_OTHERS) === 0) return;
  throw new ClientError(
    'ERR_DIRECTORY_UNSAFE',
    `${path} belongs to user ${uid} with mode ${(mode & 0o7777).toString(8)}: others could change what is in it; use a directory of your own that only you may write to`,
  );
}
