import { createHash } from 'node:crypto';
import { join } from 'node:path';
import { ClientError } from '../errors.ts';

export interface MountPaths {
  /** The mount's own directory in the run directory: while it exists, the mount does, or its remains. */
  readonly workDirectory: string;
  readonly stateFile: string;
  readonly nbdSocket: string;
  readonly controlSocket: string;
  /** Beside the work directory, since it is there before and after. */
  readonly logFile: string;
}

/** sun_path has 108 bytes, one of them NUL (unix(7)). */
const MAX_SOCKET_PATH_BYTES = 107;

/** One directory has one mount of ours: its id follows from its path. */
export function mountId(directory: string): string {
  return createHash('sha256').update(directory).digest('hex').slice(0, 12);
}

/** @throws ClientError ERR_ATTACH_UNSUPPORTED if the run directory's path is too long for sockets in it */
export function mountPaths(runDirectory: string, id: string): MountPaths {
  const workDirectory = join(runDirectory, id);
  const controlSocket = join(workDirectory, 'control.sock');
  if (Buffer.byteLength(controlSocket) > MAX_SOCKET_PATH_BYTES) {
    const most = MAX_SOCKET_PATH_BYTES - Buffer.byteLength(controlSocket) + Buffer.byteLength(runDirectory);
    throw new ClientError(
      'ERR_ATTACH_UNSUPPORTED',
      `the run directory ${runDirectory} has too long a path: unix sockets in it allow ${most} bytes`,
    );
  }
  return {
    workDirectory,
    stateFile: join(workDirectory, 'state.json'),
    nbdSocket: join(workDirectory, 'nbd.sock'),
    controlSocket,
    logFile: join(runDirectory, `${id}.log`),
  };
}
