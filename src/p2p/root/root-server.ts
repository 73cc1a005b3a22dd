import { join } from 'node:path';
import type { Logger } from 'pino';
import { collectDefaultMetrics, Registry } from 'prom-client';
import { z } from 'zod';
import { hostAndPort, LOG_LEVELS } from '../../config/common-values.ts';
import { readRegistryTls } from '../../oci/registry-tls.ts';
import { bufferAnswer, jsonAnswer } from '../../oci/serving/answer.ts';
import { type ConfiguredListener, openListener } from '../../oci/serving/configured-listener.ts';
import { type ErrorAnswer, errorAnswer, requestErrorAnswer } from '../../oci/serving/error-answer.ts';
import { HttpSide, READING, type Route } from '../../oci/serving/http-side.ts';
import type { Address } from '../../oci/serving/listener.ts';
import { refuseOtherHosts } from '../../oci/serving/own-hosts.ts';
import { RequestError } from '../../oci/serving/request-error.ts';
import { watchMesh } from './mesh-metrics.ts';
import { MeshRoot } from './mesh-root.ts';
import { ProxyRights } from './proxy-rights.ts';
import { RootKey } from './root-key.ts';
import { treeSettingsSchema } from './root-limits.ts';
import { rootRoutes, rootStatusRoutes } from './root-routes.ts';

export const rootConfigSchema = z.strictObject({
  listen: hostAndPort.default({ host: '127.0.0.1', port: 5110 }),
  /** Where operators ask; null: nowhere. */
  admin: hostAndPort.nullable().default({ host: '127.0.0.1', port: 5111 }),
  /** That is asked who may read. */
  proxy: z.url({ protocol: /^https?$/, error: 'write a URL, for example https://dadi.example.com' }),
  /** A PEM file: authorities to trust for the proxy, besides those of the system. */
  proxyCa: z.string().min(1).optional(),
  /** PEM files: credentials must not travel in the clear. */
  tls: z
    .strictObject({ cert: z.string().min(1), key: z.string().min(1) })
    .nullable()
    .default(null),
  /** For the key. */
  dataDirectory: z.string().min(1).default('/var/lib/dadi-mirror/root'),
  trees: treeSettingsSchema.prefault({}),
  logLevel: z.enum(LOG_LEVELS).default('info'),
});
export type RootConfig = Readonly<z.output<typeof rootConfigSchema>>;

export interface RunningRoot {
  readonly address: Address;
  readonly adminAddress: Address | null;
  close(): Promise<void>;
}

const CONNECTIONS = { max: 60_000, requestTimeoutMs: 20_000, stalledClientMs: 60_000 };
const DRAIN_MS = 1_000;

/**
 * A root of the mesh in a process of its own.
 * @throws ConfigError, OciError (a file cannot be used, an address is taken)
 */
export async function startRoot(config: RootConfig, log: Logger): Promise<RunningRoot> {
  const key = await RootKey.open(join(config.dataDirectory, 'mesh-key.pem'));
  const proxyTls = config.proxyCa === undefined ? null : readRegistryTls({ ca: config.proxyCa });
  const root = new MeshRoot({ settings: config.trees, key, now: Date.now });
  const rights = new ProxyRights(new URL(config.proxy), proxyTls);
  const parts = { log, onEnd: () => {}, errorAnswer: answerOf };
  const routes = [...rootRoutes({ root, rights }), HEALTH];
  const opened: ConfiguredListener[] = [];
  const close = async () => {
    await Promise.all(opened.map((listener) => listener.close(DRAIN_MS)));
    await rights.close();
  };
  try {
    const { listen, tls, admin } = config;
    const clients = await openListener(new HttpSide(routes, parts), listen, 'listen', {
      ...{ log, tls },
      ...CONNECTIONS,
    });
    opened.push(clients);
    if (admin !== null) {
      const refuse = refuseOtherHosts([admin.host], 'ask by an address');
      const side = new HttpSide([...rootStatusRoutes(root), metricsOf(root), HEALTH], { ...parts, refuse });
      opened.push(await openListener(side, admin, 'admin', { log, tls: null, ...CONNECTIONS }));
    }
    const adminAddress = opened[1]?.address ?? null;
    log.info({ ...clients.address, admin: adminAddress, proxy: config.proxy }, 'root is listening');
    return { address: clients.address, adminAddress, close };
  } catch (error) {
    await close();
    throw error;
  }
}

const HEALTH: Route = {
  path: '/healthz',
  methods: READING,
  kind: 'health',
  handle: () => jsonAnswer({ status: 'ok' }),
};

function metricsOf(root: MeshRoot): Route {
  const registry = new Registry();
  collectDefaultMetrics({ register: registry });
  watchMesh(registry, 'dadi_root_', root);
  const handle = async () => {
    const body = Buffer.from(await registry.metrics());
    return bufferAnswer(200, body, { 'content-type': registry.contentType });
  };
  return { path: '/metrics', methods: READING, kind: 'metrics', handle };
}

function answerOf(error: unknown): ErrorAnswer {
  if (error instanceof RequestError) return requestErrorAnswer(error);
  return errorAnswer('UNKNOWN', 'the root failed: its log says why');
}
