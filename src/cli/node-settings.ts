import { existsSync } from 'node:fs';
import { type Command, Option } from 'commander';
import { type NodeConfig, parseNodeConfig } from '../client/node/node-config.ts';
import { LOG_LEVELS } from '../config/common-values.ts';
import { isSet, mergeSettings, readConfigFile, type Settings } from '../config/config-file.ts';

const DEFAULT_CONFIG_PATH = '/etc/dadi/node.yaml';

/** What of the node daemon's configuration has a flag. */
export interface NodeFlags {
  readonly config?: string;
  readonly proxy?: readonly string[];
  readonly socket?: string;
  readonly mirror?: string;
  readonly cacheDir?: string;
  readonly stateDir?: string;
  readonly runDir?: string;
  readonly meshSecret?: string;
  readonly meshListen?: string;
  readonly meshAdvertise?: string;
  readonly zone?: string;
  readonly logLevel?: string;
}

/** The flags of all commands that need the configuration. */
export function addNodeFlags(command: Command): Command {
  return command
    .addOption(
      new Option(
        '-c, --config <file>',
        `configuration in YAML (default: ${DEFAULT_CONFIG_PATH}, if it is there)`,
      ).env('DADI_NODE_CONFIG'),
    )
    .addOption(
      new Option('--proxy <url>', 'a dadi proxy; repeatable, the preferred one first')
        .env('DADI_NODE_PROXY')
        .argParser(addUrls),
    )
    .addOption(
      new Option(
        '--socket <path>',
        'where containerd asks (default: snapshotter.sock in the run directory)',
      ).env('DADI_NODE_SOCKET'),
    )
    .addOption(
      new Option(
        '--mirror <host:port>',
        'where this host pulls from, or "off" (default: 127.0.0.1:6010)',
      ).env('DADI_NODE_MIRROR'),
    )
    .addOption(
      new Option('--cache-dir <directory>', 'for chunks (default: cache in the state directory)').env(
        'DADI_NODE_CACHE_DIR',
      ),
    )
    .addOption(
      new Option('--state-dir <directory>', 'for what survives a reboot (default: /var/lib/dadi-node)').env(
        'DADI_NODE_STATE_DIR',
      ),
    )
    .addOption(
      new Option('--run-dir <directory>', 'for sockets and mounts (default: /run/dadi)').env(
        'DADI_NODE_RUN_DIR',
      ),
    )
    .addOption(
      new Option(
        '--mesh-secret <file>',
        'get chunks from other hosts, and give them: all know the secret in this file',
      ).env('DADI_NODE_MESH_SECRET'),
    )
    .addOption(
      new Option('--mesh-listen <host:port>', 'for other hosts (default: 0.0.0.0:6011)').env(
        'DADI_NODE_MESH_LISTEN',
      ),
    )
    .addOption(
      new Option(
        '--mesh-advertise <host[:port]>',
        'where other hosts reach it (default: the address by which the first root is reached)',
      ).env('DADI_NODE_MESH_ADVERTISE'),
    )
    .addOption(new Option('--zone <name>', 'hosts of one zone are near each other').env('DADI_NODE_ZONE'))
    .addOption(
      new Option('--log-level <level>', 'what is logged (default: info)')
        .env('DADI_NODE_LOG_LEVEL')
        .choices(LOG_LEVELS),
    );
}

/**
 * File, environment and flags together, checked.
 * @param defaults for what none of them says
 * @throws ConfigError
 */
export function readNodeConfig(flags: NodeFlags, defaults: Settings = {}): NodeConfig {
  const path = flags.config ?? DEFAULT_CONFIG_PATH;
  // One that the user named must be there.
  const fromFile = flags.config === undefined && !existsSync(path) ? {} : readConfigFile(path);
  const fromFlags = settingsOf(flags);
  return parseNodeConfig(mergeSettings(defaults, mergeSettings(fromFile, fromFlags)), (key) => {
    if (isSet(fromFlags, key)) return 'command line or environment';
    return isSet(fromFile, key) ? path : null;
  });
}

/** In the form of the configuration file. */
function settingsOf(flags: NodeFlags): Settings {
  const { proxy, socket, mirror, cacheDir, stateDir, runDir, logLevel } = flags;
  const { meshSecret: secretFile, meshListen: listen, meshAdvertise: advertise, zone } = flags;
  const mesh = { secretFile, listen, advertise, zone };
  const hasMesh = Object.values(mesh).some((value) => value !== undefined);
  return {
    proxies: proxy,
    snapshotter: socket === undefined ? undefined : { socket },
    mirror: mirror === undefined ? undefined : mirror === 'off' ? null : { listen: mirror },
    cache: cacheDir === undefined ? undefined : { directory: cacheDir },
    stateDirectory: stateDir,
    runDirectory: runDir,
    mesh: hasMesh ? mesh : undefined,
    logLevel,
  };
}

/** `--proxy` may stand several times; in the environment, URLs are separated by spaces or commas. */
function addUrls(text: string, earlier: readonly string[] | undefined): string[] {
  return [...(earlier ?? []), ...text.split(/[\s,]+/).filter((part) => part !== '')];
}
