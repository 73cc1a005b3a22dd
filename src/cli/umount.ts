import { Command } from 'commander';
import { unmountImage } from '../client/mount/unmount.ts';
import { runDirectoryOption } from './mount.ts';
import { formatBytes, printJson } from './output.ts';

interface UmountFlags {
  readonly runDir: string;
  readonly lazy: boolean;
  readonly json: boolean;
}

/** `dadi umount DIRECTORY` */
export function umountCommand(): Command {
  return new Command('umount')
    .description('Unmount an image that "dadi mount" mounted; also what is left of one whose process died')
    .argument('<directory>', 'what it is mounted on, or its id')
    .addOption(runDirectoryOption())
    .option('--lazy', 'free the directory at once, although it is in use; those who use it can go on', false)
    .option('--json', 'print what the mount fetched as JSON', false)
    .action(umount);
}

async function umount(directory: string, { runDir, lazy, json }: UmountFlags): Promise<void> {
  const stats = await unmountImage(runDir, directory, { lazy });
  if (json) printJson(stats);
  else if (stats !== null) {
    const fetched = `${formatBytes(stats.bytesFetched)} of ${formatBytes(stats.imageBytes)} were fetched`;
    console.log(`${directory} is unmounted: ${fetched} in ${stats.requests} requests`);
  } else console.log(`${directory} is unmounted`);
}
