import process from 'node:process';
import { Command } from 'commander';
import type { Logger } from 'pino';
import type { NodeConfig } from '../client/node/node-config.ts';
import type { NodeStatus } from '../client/node/node-status.ts';
import { changedKeys } from '../config/changed-keys.ts';
import { fired, interruptSignal } from './interrupt.ts';
import { addNodeFlags, type NodeFlags, readNodeConfig } from './node-settings.ts';
import { formatBytes, formatFields, formatTable, printJson } from './output.ts';

/** Where a proxy is, for what does not ask any. */
const NO_PROXY = { proxies: ['http://127.0.0.1:5100'] };

/** From the answer that all is unmounted to the process's end. */
const STOP_WAIT_MS = 15_000;

/** `dadi node`, `dadi node status`, `dadi node stop` */
export function nodeCommand(): Command {
  const status = addNodeFlags(new Command('status').description('Tell how the running daemon is'))
    .option('--json', 'print it as JSON', false)
    .exitOverride()
    .action(async (_flags: object, command: Command) => {
      const flags = command.optsWithGlobals<NodeFlags & { readonly json: boolean }>();
      await printStatus(readNodeConfig(flags, NO_PROXY), flags.json);
    });
  const stop = addNodeFlags(
    new Command('stop').description(
      'Stop the daemon and unmount all images, also those that a daemon left which runs no more: nothing stays',
    ),
  )
    .option('--force', 'also what containers use: they get I/O errors', false)
    .exitOverride()
    .action(async (_flags: object, command: Command) => {
      const flags = command.optsWithGlobals<NodeFlags & { readonly force: boolean }>();
      await stopDaemon(readNodeConfig(flags, NO_PROXY), flags.force);
    });
  return addNodeFlags(
    new Command('node').description(
      "Run the node daemon: containerd's snapshotter, and the mirror that this host pulls from",
    ),
  )
    .option('--check-config', 'print the configuration as it is understood, and exit', false)
    .addHelpText(
      'after',
      `
Flags win over the environment (DADI_NODE_...), that over the configuration file. What has no flag stands in
the file only; docs/node.md lists all of it:

  proxies: [ "https://dadi-1.example.com", "https://dadi-2.example.com" ]
  tls: { ca: /etc/ssl/dadi-ca.pem }
  credentials: { dockerConfig: /root/.docker/config.json }
  cache: { maxBytes: 50000000000, minFreeBytes: 5000000000 }
  readTimeoutMs: 60000
  conversionWaitMs: 10000
  mesh: { secretFile: /etc/dadi/mesh.secret, zone: rack-7 }
  admin: { listen: 127.0.0.1:6012 }

SIGTERM ends the daemon, and images stay mounted: reads wait for the next one. "dadi node stop" unmounts them.
SIGHUP reads the configuration again.`,
    )
    .addCommand(status)
    .addCommand(stop)
    .action(runNode);
}

async function runNode(flags: NodeFlags & { readonly checkConfig: boolean }): Promise<void> {
  const config = readNodeConfig(flags);
  if (flags.checkConfig) {
    printJson(config);
    return;
  }
  const [{ pino }, { NodeDaemon }, { version }] = await Promise.all([
    import('pino'),
    import('../client/node/node-daemon.ts'),
    import('./version.ts'),
  ]);
  const logger = pino({ level: config.logLevel });
  const interrupted = interruptSignal();
  // From the beginning: nobody handles it, and it ends the process.
  const reload = () => reloadConfig(flags, config, logger);
  process.on('SIGHUP', reload);
  const daemon = await NodeDaemon.start(config, { logger, version });
  await Promise.race([daemon.stopped, fired(interrupted)]);
  logger.info('stopping: images stay mounted, a second signal ends at once');
  const isOver = await daemon.close();
  process.off('SIGHUP', reload);
  logger.info('stopped');
  // Else what does not end would keep the process, and it the run directory, from the next one.
  if (!isOver) process.exit(1);
}

/** What needs no restart is the log level; credentials are read when they are needed. A restart disturbs no container. */
function reloadConfig(flags: NodeFlags, running: NodeConfig, logger: Logger): void {
  try {
    const config = readNodeConfig(flags);
    logger.level = config.logLevel;
    const needRestart = changedKeys(running, { ...config, logLevel: running.logLevel });
    logger.info({ logLevel: config.logLevel }, 'the configuration was read again');
    if (needRestart.length > 0) {
      logger.warn({ needRestart }, 'these keys count after a restart only; it disturbs no container');
    }
  } catch (error) {
    logger.error({ err: error }, 'the configuration cannot be used: going on with the one before');
  }
}

async function printStatus(config: NodeConfig, asJson: boolean): Promise<void> {
  const { askDaemon } = await import('../client/node/admin-client.ts');
  const { socket } = config.admin;
  const answer = await askDaemon(socket, 'GET', '/status');
  if (answer === null)
    throw new Error(`no node daemon answers at ${socket}; does it run, with this run directory?`);
  if (asJson) printJson(answer);
  else console.log(textOf(answer as NodeStatus));
}

function textOf(status: NodeStatus): string {
  const { readiness, proxies, mounts } = status;
  const problems = readiness.checks.flatMap(({ message }) => message ?? []);
  const fields: (readonly [string, string])[] = [
    ['state', [readiness.isReady ? 'ready' : 'not ready', ...problems].join(', ')],
    ['process', `${status.pid}, for ${Math.round(status.uptimeMs / 1000)} s`],
    ['snapshotter', status.snapshotterSocket ?? 'off'],
    ['mirror', status.mirrorUrl ?? 'off'],
    ['cache', `${formatBytes(status.cache.heldBytes)} in ${status.cache.directory}`],
    ...meshFields(status.mesh),
    ...proxies.map(
      ({ host, restingMs, lastError }) =>
        [`proxy ${host}`, restingMs === 0 ? 'well' : `asked last: ${lastError ?? 'it failed'}`] as const,
    ),
  ];
  const rows = mounts.map((mount) => [
    mount.image,
    String(mount.layers),
    mount.method,
    `${formatBytes(mount.bytesFetched + mount.bytesFromMesh)} of ${formatBytes(mount.imageBytes)}`,
    formatBytes(mount.bytesFromMesh),
    String(mount.cacheHits),
    String(mount.readsUnderWay),
    String(mount.readErrors),
    mount.isOpen ? mount.target : `${mount.target} (waits for a proxy)`,
  ]);
  const headings = [
    ...['IMAGE', 'LAYERS', 'BY', 'FETCHED', 'FROM HOSTS', 'CACHE HITS'],
    ...['WAITING', 'ERRORS', 'MOUNTED ON'],
  ];
  const table = mounts.length === 0 ? 'no image is mounted' : formatTable(headings, rows);
  return `${formatFields(fields)}\n\n${table}`;
}

function meshFields(mesh: NodeStatus['mesh']): (readonly [string, string])[] {
  if (mesh === null) return [['mesh', 'off']];
  const { address, zone, roots, trees, children, counts } = mesh;
  const places = trees.flatMap(({ place }) => place ?? []);
  const depth = Math.max(0, ...places.map(({ depth }) => depth));
  const told = [
    `${address}${zone === '' ? '' : ` in ${zone}`}`,
    `${places.length} trees${places.length === 0 ? '' : `, at depth ${depth} and above`}`,
    `${formatBytes(counts.receivedBytes)} received`,
    `${formatBytes(counts.sentBytes)} sent`,
    `${children} hosts being sent to`,
  ];
  return [
    ['mesh', told.join(', ')],
    ...roots.flatMap(({ url, lastError }) =>
      lastError === null ? [] : [[`root ${new URL(url).host}`, lastError] as const],
    ),
  ];
}

async function stopDaemon(config: NodeConfig, force: boolean): Promise<void> {
  const [{ askDaemon }, { RunDirectoryLock }, { removeLeftMounts }, { mountsDirectory }] = await Promise.all([
    import('../client/node/admin-client.ts'),
    import('../client/node/run-directory-lock.ts'),
    import('../client/node/lazy-mounts.ts'),
    import('../client/node/mount-records.ts'),
  ]);
  const wasRunning = (await askDaemon(config.admin.socket, 'POST', '/stop', { force })) !== null;
  const lock = await RunDirectoryLock.take(config.runDirectory, { waitMs: STOP_WAIT_MS });
  try {
    const left = await removeLeftMounts(mountsDirectory(config.runDirectory), { force });
    const daemon = wasRunning ? 'the daemon was stopped' : 'no daemon was running';
    console.log(`${daemon}; ${left === 0 ? 'nothing' : `nothing any more of ${left} images`} is mounted`);
  } finally {
    await lock.release();
  }
}
