import { Command, Option } from 'commander';
import { pino } from 'pino';
import { LOG_LEVELS } from '../config/common-values.ts';
import { parseConfig } from '../config/parse-config.ts';
import { rootConfigSchema, startRoot } from '../p2p/root/root-server.ts';
import { number } from './arguments.ts';
import { fired, interruptSignal } from './interrupt.ts';

interface RootFlags {
  readonly proxy: string;
  readonly proxyCa?: string;
  readonly listen?: string;
  readonly adminListen?: string;
  readonly tlsCert?: string;
  readonly tlsKey?: string;
  readonly data?: string;
  readonly tops?: number;
  readonly maxFanOut?: number;
  readonly bytesPerSecondPerChild?: number;
  readonly heartbeatMs?: number;
  readonly logLevel?: string;
}

/** `dadi root` */
export function rootCommand(): Command {
  const option = (flags: string, description: string, variable: string) =>
    new Option(flags, description).env(`DADI_ROOT_${variable}`);
  return new Command('root')
    .description(
      'Run a root of the mesh alone: nodes find each other there, and a proxy is asked who may read',
    )
    .addOption(
      option('--proxy <url>', 'the dadi proxy that knows who may read', 'PROXY').makeOptionMandatory(),
    )
    .addOption(
      option('--proxy-ca <file>', 'authorities to trust for it, besides those of the system', 'PROXY_CA'),
    )
    .addOption(option('--listen <host:port>', 'where nodes ask (default: 127.0.0.1:5110)', 'LISTEN'))
    .addOption(
      option(
        '--admin-listen <host:port>',
        'where operators ask, or "off" (default: 127.0.0.1:5111)',
        'ADMIN_LISTEN',
      ),
    )
    .addOption(option('--tls-cert <file>', 'the certificate for nodes, with its chain', 'TLS_CERT'))
    .addOption(option('--tls-key <file>', 'its key', 'TLS_KEY'))
    .addOption(option('--data <directory>', 'for the key (default: /var/lib/dadi-mirror/root)', 'DATA'))
    .addOption(
      option('--tops <n>', 'hosts of each tree that read from the proxies (default: 1)', 'TOPS').argParser(
        number,
      ),
    )
    .addOption(
      option('--max-fan-out <n>', 'children of a host at most (default: 4)', 'MAX_FAN_OUT').argParser(number),
    )
    .addOption(
      option(
        '--bytes-per-second-per-child <n>',
        'upload for which a host gets a child (default: 12500000)',
        'BYTES_PER_SECOND_PER_CHILD',
      ).argParser(number),
    )
    .addOption(
      option(
        '--heartbeat-ms <n>',
        'hosts are heard of so often, or less if they are many (default: 5000)',
        'HEARTBEAT_MS',
      ).argParser(number),
    )
    .addOption(
      option('--log-level <level>', 'what is logged (default: info)', 'LOG_LEVEL').choices(LOG_LEVELS),
    )
    .action(runRoot);
}

async function runRoot(flags: RootFlags): Promise<void> {
  const { listen, adminListen, proxy, proxyCa, tlsCert, tlsKey, data, logLevel } = flags;
  const { tops, maxFanOut, bytesPerSecondPerChild, heartbeatMs } = flags;
  const hasTls = tlsCert !== undefined || tlsKey !== undefined;
  const config = parseConfig(rootConfigSchema, {
    ...{ listen, proxy, proxyCa, dataDirectory: data, logLevel },
    admin: adminListen === 'off' ? null : adminListen,
    tls: hasTls ? { cert: tlsCert, key: tlsKey } : null,
    trees: { tops, maxFanOut, bytesPerSecondPerChild, heartbeatMs },
  });
  const log = pino({ level: config.logLevel });
  const signal = interruptSignal();
  const root = await startRoot(config, log);
  await fired(signal);
  await root.close();
  log.info('stopped');
}
