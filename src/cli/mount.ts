import { resolve } from 'node:path';
import process from 'node:process';
import { Command, InvalidArgumentError, Option } from 'commander';
import type { MountOptions } from '../client/mount/mount-holder.ts';
import { launchMount } from '../client/mount/mount-launcher.ts';
import { formatLayoutReference, parseLayoutReference } from '../oci/layout-reference.ts';
import { httpUrl } from './arguments.ts';
import { interruptSignal } from './interrupt.ts';
import { describeProgress, reportMount } from './mount-output.ts';
import { ProgressLine } from './output.ts';

const DEFAULT_CACHE_DIRECTORY = '/var/cache/dadi';
const DEFAULT_RUN_DIRECTORY = '/run/dadi';
const DEFAULT_WAIT_SECONDS = 600;
const DEFAULT_READ_TIMEOUT_SECONDS = 60;

interface MountFlags {
  readonly cacheDir: string;
  readonly runDir: string;
  readonly wait: number;
  readonly readTimeout: number;
  readonly proxy?: URL;
  readonly plainHttp?: boolean;
  readonly foreground: boolean;
  readonly json: boolean;
}

/** `--run-dir`, the same for mount and umount. */
export function runDirectoryOption(): Option {
  return new Option('--run-dir <directory>', 'where sockets and the state of mounts are')
    .env('DADI_RUN_DIR')
    .default(DEFAULT_RUN_DIRECTORY)
    .argParser((text) => resolve(text));
}

/** `dadi mount [IMAGE DIRECTORY]` */
export function mountCommand(): Command {
  return new Command('mount')
    .description(
      'Mount an image read-only, without pulling it: what is read is fetched; without arguments, list mounts',
    )
    .argument('[image]', '[HOST[:PORT]/]REPOSITORY[:TAG][@DIGEST] at a dadi proxy, or oci:DIRECTORY[:TAG]')
    .argument('[directory]', 'an existing directory')
    .addOption(
      new Option('--cache-dir <directory>', 'where fetched chunks are kept')
        .env('DADI_CACHE_DIR')
        .default(DEFAULT_CACHE_DIRECTORY)
        .argParser((text) => resolve(text)),
    )
    .addOption(runDirectoryOption())
    .option(
      '--wait <seconds>',
      'how long to wait for the conversion of an image that is not converted yet',
      seconds,
      DEFAULT_WAIT_SECONDS,
    )
    .option(
      '--read-timeout <seconds>',
      'after which a read that cannot be fetched fails',
      seconds,
      DEFAULT_READ_TIMEOUT_SECONDS,
    )
    .addOption(
      new Option('--proxy <url>', "read the image through this dadi proxy, by the image's upstream name")
        .env('DADI_PROXY')
        .argParser(httpUrl),
    )
    .option('--plain-http', 'speak http to the registry (to one on loopback: always)')
    .option('--foreground', 'stay, until interrupted', false)
    .option('--json', 'print the result as JSON', false)
    .action(mount);
}

async function mount(
  image: string | undefined,
  directory: string | undefined,
  flags: MountFlags,
  command: Command,
): Promise<void> {
  // Loaded when needed: who starts a mount in the background waits for the modules of that process, not for them twice.
  if (image === undefined) return (await import('./mount-list.ts')).listCommand(flags);
  if (directory === undefined) command.error('error: say which directory to mount the image on');
  const options = mountOptions(image, directory, flags);
  if (flags.foreground) return (await import('./mount-foreground.ts')).holdMount(options, flags);
  const progress = new ProgressLine({ quiet: flags.json });
  const state = await launchMount({
    command: foregroundCommand(options, flags),
    directory: options.directory,
    runDirectory: options.runDirectory,
    onProgress: (how) => progress.show(describeProgress(how)),
    signal: interruptSignal(),
  }).finally(() => progress.clear());
  reportMount(state, flags);
}

function mountOptions(image: string, directory: string, flags: MountFlags): MountOptions {
  const { proxy, plainHttp, cacheDir, runDir, wait, readTimeout } = flags;
  return {
    image: {
      reference: absolute(image),
      waitMs: wait * 1000,
      ...(proxy === undefined ? {} : { proxy }),
      ...(plainHttp === undefined ? {} : { plainHttp }),
    },
    directory: resolve(directory),
    cacheDirectory: cacheDir,
    runDirectory: runDir,
    readTimeoutMs: readTimeout * 1000,
  };
}

/** The mount's process works in another directory. */
function absolute(image: string): string {
  const layout = parseLayoutReference(image);
  if (layout === null) return image;
  return formatLayoutReference({ ...layout, directory: resolve(layout.directory) });
}

/** This program again, with all that its environment says spelled out. */
function foregroundCommand({ image, directory }: MountOptions, flags: MountFlags): [string, ...string[]] {
  return [
    ...[process.execPath, ...process.execArgv, process.argv[1] ?? ''],
    ...['mount', '--foreground', '--cache-dir', flags.cacheDir, '--run-dir', flags.runDir],
    ...['--wait', String(flags.wait), '--read-timeout', String(flags.readTimeout)],
    ...(flags.proxy === undefined ? [] : ['--proxy', flags.proxy.href]),
    ...(flags.plainHttp ? ['--plain-http'] : []),
    ...['--', image.reference, directory],
  ] as [string, ...string[]];
}

function seconds(text: string): number {
  const value = Number(text);
  if (text === '' || !(value >= 0 && value <= 86_400))
    throw new InvalidArgumentError('write a number of seconds, at most 86400');
  return value;
}
