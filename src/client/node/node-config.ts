import { join } from 'node:path';
import { z } from 'zod';
import { baseUrl, hostAndPort, LOG_LEVELS } from '../../config/common-values.ts';
import { parseConfig } from '../../config/parse-config.ts';
import { meshSettings } from './mesh-config.ts';

const filePath = z.string().min(1, 'name a file');
const directory = z.string().regex(/^\//, 'write a path that begins with /');
const bytes = z.int().nonnegative();

const tls = z
  .strictObject({
    /** PEM: certificates of authorities to trust besides the system's. */
    ca: filePath.optional(),
    /** PEM: our certificate and its key, for proxies that ask for them. */
    certificate: filePath.optional(),
    key: filePath.optional(),
    /** Any certificate will do: whoever is in between can read and change everything. */
    insecureSkipVerify: z.boolean().default(false),
  })
  .prefault({});

/** Where a socket is, if nothing is said: in the run directory. */
const socketPath = directory.optional();

const schema = z
  .strictObject({
    /** In the order in which they are asked. */
    proxies: z
      .array(
        baseUrl,
        'is missing; name at least one dadi proxy, for example [http://127.0.0.1:5100], or start with --proxy',
      )
      .min(1, 'name at least one dadi proxy, for example http://127.0.0.1:5100'),
    /** For proxies that are reached by https. */
    tls,
    /** The daemon's own, for images whose pulls brought none: shown to the proxies. */
    credentials: z
      .strictObject({
        /** A Docker configuration, as `docker login` writes it, with the credential helpers that it names. */
        dockerConfig: filePath.nullable().default(null),
      })
      .prefault({}),
    /** What containerd asks; null: nobody. */
    snapshotter: z.strictObject({ socket: socketPath }).nullable().prefault({}),
    /** Where docker, containerd and podman of this host pull from; null: nowhere. */
    mirror: z
      .strictObject({
        listen: hostAndPort.default({ host: '127.0.0.1', port: 6010 }),
        /** Registries, and storage that they redirect to, which stock overlaybd may read from by /dadip2p without a proxy. */
        directHosts: z.array(z.string().regex(/^[^/\s]+$/, 'write HOST or HOST:PORT')).default([]),
      })
      .nullable()
      .prefault({}),
    /** Chunks that were fetched, shared by all images. */
    cache: z
      .strictObject({
        /** If not `cache` in the state directory. */
        directory: directory.optional(),
        /** On disk. */
        maxBytes: bytes.min(64 * 1024 * 1024).default(20_000_000_000),
        /** Of the file system, left to others. */
        minFreeBytes: bytes.default(1_000_000_000),
      })
      .prefault({}),
    /** What must survive a reboot: snapshots, and the cache. */
    stateDirectory: directory.default('/var/lib/dadi-node'),
    /** What need not: sockets and mounts. Short: unix sockets' paths have at most 107 bytes. */
    runDirectory: directory.default('/run/dadi'),
    /** How long a read waits for a proxy before it fails with EIO. */
    readTimeoutMs: z.int().min(1_000).max(3_600_000).default(60_000),
    /** How long a pull waits for a running conversion before it downloads the image as ever. */
    conversionWaitMs: z.int().nonnegative().max(600_000).default(10_000),
    /** Fetches all of each mounted image in the background, so that it needs no proxy any more. */
    completion: z
      .strictObject({
        enabled: z.boolean().default(false),
        /** Of all images together. */
        bytesPerSecond: bytes.min(1).default(10_000_000),
        /** After a mount, while its container starts. */
        delayMs: z.int().nonnegative().default(60_000),
      })
      .prefault({}),
    /** Where operators ask. */
    admin: z
      .strictObject({
        socket: socketPath,
        /** Besides the socket: status, metrics and readiness, for whoever can connect; nothing that changes something. */
        listen: hostAndPort.nullable().default(null),
      })
      .prefault({}),
    /** Chunks from and for other hosts. */
    mesh: meshSettings,
    logLevel: z.enum(LOG_LEVELS).default('info'),
  })
  .transform(({ snapshotter, cache, admin, ...config }) => ({
    ...config,
    snapshotter: snapshotter && {
      socket: snapshotter.socket ?? join(config.runDirectory, 'snapshotter.sock'),
    },
    cache: { ...cache, directory: cache.directory ?? join(config.stateDirectory, 'cache') },
    admin: { ...admin, socket: admin.socket ?? join(config.runDirectory, 'node.sock') },
  }));

/** All that the node daemon can be told, checked, with defaults filled in. */
export type NodeConfig = Readonly<z.output<typeof schema>>;

/**
 * Checks a configuration as it was read from file, flags and environment.
 * @param source names where the value at a path came from; null where that is plain
 * @throws ConfigError that names every wrong key, where it stands, and what belongs there
 */
export function parseNodeConfig(
  input: unknown,
  source?: (path: readonly PropertyKey[]) => string | null,
): NodeConfig {
  return parseConfig(schema, input, source);
}
