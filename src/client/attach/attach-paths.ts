import { realpath } from 'node:fs/promises';
import { join } from 'node:path';

/** What attaching leaves on this machine is found again by these paths, which are in the kernel's own lists. */
export interface AttachPaths {
  /** The device as a file: the one file of a FUSE file system, mounted on it. */
  readonly deviceFile: string;
  /** A FIFO. The holder process has it open, and in its command line. */
  readonly holderFifo: string;
  /** The holder's process number, to find it without a look at all processes. */
  readonly holderPid: string;
}

/** The work directory must exist. */
export async function attachPaths(workDirectory: string): Promise<AttachPaths> {
  // The kernel knows paths without symbolic links only.
  const directory = await realpath(workDirectory);
  return {
    deviceFile: join(directory, 'device'),
    holderFifo: join(directory, 'holder'),
    holderPid: join(directory, 'holder.pid'),
  };
}
