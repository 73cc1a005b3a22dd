import { existsSync } from 'node:fs';
import process from 'node:process';
import { Command, InvalidArgumentError, Option } from 'commander';
import { type Logger, pino } from 'pino';
import { LOG_LEVELS } from '../config/common-values.ts';
import { isSet, mergeSettings, readConfigFile, type Settings } from '../config/config-file.ts';
import { httpProxiesOf } from '../oci/http-proxies.ts';
import { type ProxyConfig, parseProxyConfig } from '../proxy/config.ts';
import { type RunningProxy, startProxy } from '../proxy/server.ts';
import { withoutUpstreamSecrets } from '../proxy/upstream/upstream-config.ts';
import { number } from './arguments.ts';
import { fired, interruptSignal } from './interrupt.ts';
import { type LimitFlags, limitOption, limitsHelp } from './limits.ts';
import { printJson } from './output.ts';
import { version } from './version.ts';

const DEFAULT_CONFIG_PATH = '/etc/dadi/proxy.yaml';

interface UpstreamFlag {
  readonly name: string;
  readonly url?: string;
}

interface ProxyFlags {
  readonly config?: string;
  readonly listen?: string;
  readonly adminListen?: string;
  readonly data?: string;
  readonly upstream?: readonly UpstreamFlag[];
  readonly defaultUpstream?: string;
  readonly tagTtl?: number;
  readonly convert: boolean;
  readonly algorithm?: string;
  readonly level?: number;
  readonly blockSize?: number;
  readonly concurrency?: number;
  readonly limit?: LimitFlags;
  readonly logLevel?: string;
  readonly checkConfig: boolean;
}

/** `dadi proxy` */
export function proxyCommand(): Command {
  return new Command('proxy')
    .description(
      'Run the registry proxy: pulls through from upstream registries, and converts what is pulled',
    )
    .addOption(
      new Option(
        '-c, --config <file>',
        `configuration in YAML (default: ${DEFAULT_CONFIG_PATH}, if it is there)`,
      ).env('DADI_PROXY_CONFIG'),
    )
    .addOption(
      new Option('--listen <host:port>', 'where to answer (default: 127.0.0.1:5100)').env(
        'DADI_PROXY_LISTEN',
      ),
    )
    .addOption(
      new Option('--admin-listen <host:port>', 'where operators ask, or "off" (default: 127.0.0.1:5101)').env(
        'DADI_PROXY_ADMIN_LISTEN',
      ),
    )
    .addOption(
      new Option('--data <directory>', 'where everything is kept (default: /var/lib/dadi-mirror/proxy)').env(
        'DADI_PROXY_DATA',
      ),
    )
    .addOption(
      new Option(
        '--upstream <name[=url]>',
        'a registry to pull through from, by the name that images have there; repeatable (default: docker.io)',
      )
        .env('DADI_PROXY_UPSTREAM')
        .argParser(addUpstream),
    )
    .addOption(
      new Option('--default-upstream <name>', 'for requests that name none (default: the first)').env(
        'DADI_PROXY_DEFAULT_UPSTREAM',
      ),
    )
    .addOption(
      new Option(
        '--tag-ttl <seconds>',
        'how long a tag is believed before upstream is asked again (default: 60)',
      )
        .env('DADI_PROXY_TAG_TTL')
        .argParser(number),
    )
    .option('--no-convert', 'only pull through, convert nothing')
    .addOption(
      new Option('--algorithm <name>', 'compression of converted layers: lz4 or zstd (default: zstd)').env(
        'DADI_PROXY_ALGORITHM',
      ),
    )
    .addOption(
      new Option('--level <n>', 'compression level of zstd (default: 3)')
        .env('DADI_PROXY_LEVEL')
        .argParser(number),
    )
    .addOption(
      new Option('--block-size <bytes>', 'bytes compressed together: 4096 to 32768 (default: 32768)')
        .env('DADI_PROXY_BLOCK_SIZE')
        .argParser(number),
    )
    .addOption(
      new Option('--concurrency <n>', 'layers converted at once (default: one for each core)')
        .env('DADI_PROXY_CONCURRENCY')
        .argParser(number),
    )
    .addOption(limitOption().env('DADI_PROXY_LIMIT'))
    .addOption(
      new Option('--log-level <level>', 'what is logged (default: info)')
        .env('DADI_PROXY_LOG_LEVEL')
        .choices(LOG_LEVELS),
    )
    .option('--check-config', 'print the configuration as it is understood, and exit', false)
    .addHelpText(
      'after',
      `
Flags win over the environment (DADI_PROXY_...), that over the configuration file. What has no flag stands in
the file only; docs/proxy.md lists all of it:

  listen: 0.0.0.0:5100
  # Or "mode: passthrough": by the rights that callers have upstream.
  access: { mode: basic, htpasswd: /etc/dadi/htpasswd }
  tls: { cert: /etc/dadi/tls.crt, key: /etc/dadi/tls.key }
  upstreams:
    - name: docker.io
      credentials: { username: me, password: secret }
    - name: registry.example.com
      url: https://10.0.0.5:5000
      tls: { ca: /etc/ssl/registry-ca.pem }
  # For replicas that share what they keep; by default it is in the data directory.
  storage: { kind: s3, bucket: images, endpoint: "https://s3.example.com" }
  catalog: { kind: postgres, url: "postgres://dadi:secret@db.example.com/dadi" }
  cache: { maxBytes: 500000000000, maxAgeMs: 2592000000 }
  conversion:
    limits: { layerEntries: 10000000 }
${limitsHelp()}`,
    )
    .action(runProxy);
}

async function runProxy(flags: ProxyFlags): Promise<void> {
  const config = readConfig(flags);
  if (flags.checkConfig) {
    printJson(shown(config));
    return;
  }
  const proxies = httpProxiesOf(process.env);
  const log = pino({ level: config.logLevel });
  const signal = interruptSignal();
  const proxy = await startProxy(config, { log, version, proxies });
  const reload = () => reloadConfig(flags, proxy, log);
  process.on('SIGHUP', reload);
  await fired(signal);
  log.info('stopping: running answers may end, a second signal ends at once');
  await proxy.close();
  process.off('SIGHUP', reload);
  log.info('stopped');
}

/** Reads file, environment and flags again. A configuration that is wrong changes nothing. */
function reloadConfig(flags: ProxyFlags, proxy: RunningProxy, log: Logger): void {
  try {
    const config = readConfig(flags);
    const { applied, needRestart } = proxy.reload(config);
    log.level = config.logLevel;
    log.info({ applied }, 'the configuration was read again');
    if (needRestart.length > 0) log.warn({ needRestart }, 'these keys count after a restart only');
  } catch (error) {
    log.error({ err: error }, 'the configuration cannot be used: going on with the one before');
  }
}

function readConfig(flags: ProxyFlags): ProxyConfig {
  const path = flags.config ?? DEFAULT_CONFIG_PATH;
  // One that the user named must be there.
  const fromFile = flags.config === undefined && !existsSync(path) ? {} : readConfigFile(path);
  const fromFlags = configOf(flags);
  return parseProxyConfig(mergeSettings(fromFile, fromFlags), (key) => {
    if (isSet(fromFlags, key)) return 'command line or environment';
    return isSet(fromFile, key) ? path : null;
  });
}

/** What flags and environment say, in the form of the configuration file. */
function configOf(flags: ProxyFlags): Settings {
  const { listen, adminListen, data, upstream, defaultUpstream, tagTtl } = flags;
  const { algorithm, level, blockSize, concurrency, limit, logLevel } = flags;
  return {
    listen,
    admin: adminListen === undefined ? undefined : adminListen === 'off' ? null : { listen: adminListen },
    dataDirectory: data,
    upstreams: upstream,
    defaultUpstream,
    tagTtlMs: tagTtl === undefined ? undefined : tagTtl * 1000,
    logLevel,
    conversion: {
      enabled: flags.convert ? undefined : false,
      algorithm,
      level,
      blockSize,
      concurrency,
      limits: limit,
    },
  };
}

/** For people's eyes. */
function shown(config: ProxyConfig) {
  return {
    ...config,
    access: 'tokenSecret' in config.access ? { ...config.access, tokenSecret: '(hidden)' } : config.access,
    catalog: config.catalog.kind === 'sqlite' ? config.catalog : { ...config.catalog, url: '(hidden)' },
    storage: withoutSecrets(config.storage),
    upstreams: config.upstreams.map(withoutUpstreamSecrets),
  };
}

function withoutSecrets(storage: ProxyConfig['storage']) {
  if (storage.kind === 'directory' || storage.credentials === undefined) return storage;
  const { accessKeyId } = storage.credentials;
  return { ...storage, credentials: { accessKeyId, secretAccessKey: '(hidden)' } };
}

/** `--upstream` may stand several times; in the environment, names are separated by spaces or commas. */
function addUpstream(text: string, earlier: readonly UpstreamFlag[] | undefined): UpstreamFlag[] {
  const upstreams = text.split(/[\s,]+/).filter((part) => part !== '');
  if (upstreams.length === 0) throw new InvalidArgumentError('write NAME or NAME=URL');
  return [...(earlier ?? []), ...upstreams.map(toUpstream)];
}

function toUpstream(text: string): UpstreamFlag {
  const equals = text.indexOf('=');
  return equals === -1 ? { name: text } : { name: text.slice(0, equals), url: text.slice(equals + 1) };
}
