import { once } from 'node:events';
import { resolve } from 'node:path';
import process from 'node:process';
import { Command, InvalidArgumentError, Option } from 'commander';
import type { ConversionProgress } from '../client/conversion-wait.ts';
import { parseLayoutReference } from '../client/layout-image.ts';
import { MountHolder, type MountOptions } from '../client/mount-holder.ts';
import { launchMount, type MountMessage } from '../client/mount-launcher.ts';
import type { MountState } from '../client/mount-state.ts';
import { listMounts } from '../client/unmount.ts';
import { interruptSignal } from './interrupt.ts';
import { formatBytes, formatTable, ProgressLine, printJson } from './output.ts';

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
  if (image === undefined) return list(flags);
  if (directory === undefined) command.error('error: say which directory to mount the image on');
  const options = mountOptions(image, directory, flags);
  if (flags.foreground) return hold(options, flags);
  const progress = new ProgressLine({ quiet: flags.json });
  const state = await launchMount({
    command: foregroundCommand(options, flags),
    directory: options.directory,
    runDirectory: options.runDirectory,
    onProgress: (how) => progress.show(describe(how)),
    signal: interruptSignal(),
  }).finally(() => progress.clear());
  report(state, flags);
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
  return `oci:${resolve(layout.directory)}${layout.tag === null ? '' : `:${layout.tag}`}`;
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

/** Mounts in this process, until it is told to stop: by a signal, or by `dadi umount`. */
async function hold(options: MountOptions, flags: MountFlags): Promise<void> {
  const parent = process.connected ? process : null;
  const tell = (message: MountMessage, then: () => unknown = () => {}) => parent?.send?.(message, then);
  const line = new ProgressLine({ quiet: flags.json || parent !== null });
  const starting = new AbortController();
  const abandon = () => starting.abort(new Error('interrupted before the image was mounted'));
  const giveUpEvents = ['SIGINT', 'SIGTERM', 'disconnect'] as const;
  for (const event of giveUpEvents) process.once(event, abandon);
  let holder: MountHolder;
  try {
    holder = await MountHolder.start(options, {
      signal: starting.signal,
      onProgress: (progress) => {
        tell({ type: 'progress', progress });
        line.show(describe(progress));
      },
      onWarning: warn,
    });
  } catch (error) {
    if (parent === null) throw error;
    tell(failure(error), () => parent.connected && parent.disconnect());
    process.exitCode = 1;
    return;
  } finally {
    line.clear();
    for (const event of giveUpEvents) process.removeListener(event, abandon);
  }
  stopOnSignals(holder);
  tell({ type: 'ready', state: holder.state });
  if (parent === null) report(holder.state, flags);
  else if (process.connected) await once(process, 'disconnect');
  await holder.ended;
}

/** The first signal unmounts; if the directory is in use, the next one does it lazily. */
function stopOnSignals(holder: MountHolder): void {
  let lazy = false;
  const stop = () => {
    holder.stop({ lazy }).catch((error) => warn('cannot unmount; the next signal does it lazily', error));
    lazy = true;
  };
  process.on('SIGINT', stop).on('SIGTERM', stop);
  void holder.ended.then(() => process.removeListener('SIGINT', stop).removeListener('SIGTERM', stop));
}

async function list({ runDir, json }: MountFlags): Promise<void> {
  const mounts = await listMounts(runDir);
  if (json) {
    printJson(mounts.map(({ id, status, state, stats }) => ({ ...state, id, status, stats })));
    return;
  }
  if (mounts.length === 0) return;
  const rows = mounts.map(({ id, status, state, stats }) => [
    id,
    state?.directory ?? '?',
    state?.image ?? '?',
    status,
    stats === null ? '-' : `${formatBytes(stats.bytesFetched)} of ${formatBytes(stats.imageBytes)}`,
  ]);
  console.log(formatTable(['ID', 'DIRECTORY', 'IMAGE', 'STATUS', 'FETCHED'], rows));
}

function report(state: MountState, { json }: MountFlags): void {
  if (json) printJson(state);
  else console.log(`${state.image} is mounted on ${state.directory}`);
}

function describe({ state, layersDone, layersTotal, bytesDone, bytesTotal }: ConversionProgress): string {
  if (state === 'queued') return 'waiting for the conversion to begin';
  const layers = `${layersDone} of ${layersTotal} layers`;
  return `being converted: ${layers}, ${formatBytes(bytesDone)} of ${formatBytes(bytesTotal)}`;
}

function failure(error: unknown): MountMessage {
  const reasons: string[] = [];
  for (let cause = error; cause instanceof Error; cause = cause.cause) reasons.push(cause.message);
  const code = error instanceof Error && 'code' in error ? String(error.code) : 'ERR_MOUNT_DAEMON';
  return { type: 'failed', code, reasons: reasons.length === 0 ? [String(error)] : reasons };
}

function warn(message: string, error: unknown): void {
  const reasons: string[] = [];
  for (let cause = error; cause instanceof Error; cause = cause.cause) reasons.push(cause.message);
  console.error(`${new Date().toISOString()} dadi mount: ${[message, ...reasons].join(': ')}`);
}

function seconds(text: string): number {
  const value = Number(text);
  if (text === '' || !(value >= 0 && value <= 86_400))
    throw new InvalidArgumentError('write a number of seconds, at most 86400');
  return value;
}

function httpUrl(text: string): URL {
  const url = URL.parse(text);
  if (url?.protocol !== 'http:' && url?.protocol !== 'https:') {
    throw new InvalidArgumentError('write http://HOST[:PORT] or https://HOST[:PORT]');
  }
  return url;
}
