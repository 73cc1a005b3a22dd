import { availableParallelism } from 'node:os';
import { z } from 'zod';
import { hostAndPort, LOG_LEVELS } from '../config/common-values.ts';
import { parseConfig } from '../config/parse-config.ts';
import { type ConversionLimits, DEFAULT_LIMITS } from '../convert/layer-limits.ts';
import { DEFAULT_REGISTRY } from '../oci/reference.ts';
import { treeSettingsSchema } from '../p2p/root/root-limits.ts';
import { cacheSchema } from './cache/cache-config.ts';
import { storage } from './storage.ts';
import { allowUpstreamsSchema, upstreamSchema } from './upstream/upstream-config.ts';

/** See {@link ConversionSelection}. */
const imagePattern = z
  .string()
  .regex(
    /^[^\s/]+\/\S+$/,
    'write UPSTREAM/REPOSITORY[:TAG], for example docker.io/library/* or quay.io/**:nightly',
  );

function bound(name: keyof ConversionLimits) {
  return z.int().positive().default(DEFAULT_LIMITS[name]);
}

/** What each of them bounds stands with {@link ConversionLimits}. */
const limits = z
  .strictObject({
    imageLayers: bound('imageLayers'),
    imageBytes: bound('imageBytes'),
    imageSeconds: z.number().positive().default(DEFAULT_LIMITS.imageSeconds),
    indexImages: bound('indexImages'),
    layerBytes: bound('layerBytes'),
    layerEntries: bound('layerEntries'),
    layerMetadataBytes: bound('layerMetadataBytes'),
    expansionRatio: z.number().min(1).default(DEFAULT_LIMITS.expansionRatio),
    expansionFreeBytes: z.int().nonnegative().default(DEFAULT_LIMITS.expansionFreeBytes),
    fileBytes: bound('fileBytes'),
    pathDepth: bound('pathDepth'),
    entryXattrBytes: z.int().nonnegative().default(DEFAULT_LIMITS.entryXattrBytes),
    minFreeBytes: z.int().nonnegative().default(DEFAULT_LIMITS.minFreeBytes),
  })
  .prefault({});

/** Where the catalog is: SQLite in the data directory, for one proxy, or PostgreSQL, for replicas that share it. */
const catalog = z
  .discriminatedUnion('kind', [
    z.strictObject({ kind: z.literal('sqlite') }),
    z.strictObject({
      kind: z.literal('postgres'),
      url: z.url({
        protocol: /^postgres(ql)?$/,
        error: 'write a URL, for example postgres://dadi:secret@db.example.com/dadi',
      }),
      /** Of this replica. */
      maxConnections: z.int().min(1).max(1000).default(10),
    }),
  ])
  .default({ kind: 'sqlite' });

/** Who may read; what each mode does stands with its class. */
const access = z.discriminatedUnion('mode', [
  z.strictObject({ mode: z.literal('open') }),
  z.strictObject({
    mode: z.literal('basic'),
    /** As `htpasswd -B` writes it. */
    htpasswd: z.string().min(1, 'name a file that "htpasswd -B" wrote'),
  }),
  z.strictObject({
    mode: z.literal('passthrough'),
    /** How long upstream's word that somebody may read a repository is taken. */
    decisionTtlMs: z.int().nonnegative().default(60_000),
    /** For clients' tokens: the same for all replicas. Left out, each process makes one of its own. */
    tokenSecret: z.string().min(32, 'write at least 32 random characters').optional(),
  }),
]);

const DOCKER_HUB = { name: DEFAULT_REGISTRY };

const schema = z
  .strictObject({
    listen: hostAndPort.default({ host: '127.0.0.1', port: 5100 }),
    /** Where operators ask: metrics, dashboard, and what changes something. Null: nowhere. */
    admin: z
      .strictObject({
        listen: hostAndPort.default({ host: '127.0.0.1', port: 5101 }),
        /** Names with a dot that it is asked by; others are refused. */
        hosts: z.array(z.string().regex(/^[\w.-]+$/, 'write a name without a port')).default([]),
      })
      .nullable()
      .prefault({}),
    /** For `listen`: PEM files, the certificate with its chain. Credentials must not travel in the clear. */
    tls: z
      .strictObject({ cert: z.string().min(1), key: z.string().min(1) })
      .nullable()
      .default(null),
    /** What one client may cost, and all of them together. */
    connections: z
      .strictObject({
        /** At the same time; more are closed at once. */
        max: z.int().positive().default(8_192),
        /** Until a request has come whole. */
        requestTimeoutMs: z.int().min(100).default(20_000),
        /** How long a client may take nothing of what waits for it. */
        stalledClientMs: z.int().min(100).default(60_000),
      })
      .prefault({}),
    /** Where clients reach it, if not where they say (a load balancer that ends TLS): `https://mirror.example`. */
    publicUrl: z
      .url({ protocol: /^https?$/, error: 'write a URL, for example https://mirror.example.com' })
      .transform((text) => new URL(text).origin)
      .optional(),
    access: access.default({ mode: 'open' }),
    dataDirectory: z.string().min(1, 'name a directory').default('/var/lib/dadi-mirror/proxy'),
    catalog,
    storage,
    upstreams: z.array(upstreamSchema).min(1, 'name at least one upstream').default([DOCKER_HUB]),
    allowUpstreams: allowUpstreamsSchema,
    /** The upstream of requests that name none; the first one if left out. */
    defaultUpstream: z.string().optional(),
    /** How long a tag is believed before upstream is asked again. */
    tagTtlMs: z.int().nonnegative().default(60_000),
    logLevel: z.enum(LOG_LEVELS).default('info'),
    /** How long running answers may go on after a stop was asked for. */
    drainMs: z.int().nonnegative().default(5_000),
    cache: cacheSchema,
    /** The root of the mesh, which tells nodes from which others they get what they read. */
    mesh: treeSettingsSchema.extend({ enabled: z.boolean().default(true) }).prefault({}),
    conversion: z
      .strictObject({
        enabled: z.boolean().default(true),
        algorithm: z.enum(['lz4', 'zstd']).default('zstd'),
        /** zstd's level; LZ4 has none. */
        level: z.int().min(1).max(22).default(3),
        /** Bytes compressed together. */
        blockSize: z.literal([4096, 8192, 16_384, 32_768], 'is 4096, 8192, 16384 or 32768').default(32_768),
        /** Layers converted at the same time, a thread each. */
        concurrency: z.int().min(1).max(256).default(availableParallelism()),
        /** Images converted at the same time. */
        images: z.int().min(1).max(256).default(2),
        /** Layers fetched at the same time that nobody but conversions waits for. */
        downloads: z.int().min(1).max(256).default(2),
        /** After so long without a word, a replica's conversions are taken over by another one. */
        leaseMs: z.int().min(1_000).max(3_600_000).default(30_000),
        /** Which images of an index are converted without being asked for. */
        platforms: z
          .union([
            z.enum(['all', 'requested']),
            z.array(z.string().regex(/^[a-z0-9]+\/[a-z0-9]+(\/[a-z0-9]+)?$/, 'write OS/ARCHITECTURE')).min(1),
          ])
          .default('all'),
        include: z.array(imagePattern).default([]),
        exclude: z.array(imagePattern).default([]),
        /** Images of fewer bytes of layers, compressed, are left as they are. */
        minImageBytes: z.int().nonnegative().default(0),
        /** What a conversion may cost. */
        limits,
      })
      .prefault({}),
  })
  .transform((config) => ({
    ...config,
    defaultUpstream: config.defaultUpstream ?? config.upstreams[0]?.name ?? '',
  }))
  .superRefine(({ upstreams, defaultUpstream }, context) => {
    const names = upstreams.map((each) => each.name);
    const twice = names.find((name, index) => names.indexOf(name) !== index);
    if (twice !== undefined) {
      context.addIssue({ code: 'custom', path: ['upstreams'], message: `${twice} stands there twice` });
    }
    if (!names.includes(defaultUpstream)) {
      context.addIssue({
        code: 'custom',
        path: ['defaultUpstream'],
        message: `${defaultUpstream} is none of the upstreams (${names.join(', ')})`,
      });
    }
  });

/** All that the proxy can be told, checked, with defaults filled in. */
export type ProxyConfig = Readonly<z.output<typeof schema>>;

/**
 * Checks a configuration as it was read from file, flags and environment.
 * @param source names where the value at a path came from; null where that is plain
 * @throws ConfigError that names every wrong key, where it stands, and what belongs there
 */
export function parseProxyConfig(
  input: unknown,
  source?: (path: readonly PropertyKey[]) => string | null,
): ProxyConfig {
  return parseConfig(schema, input, source);
}
