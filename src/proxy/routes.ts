import { jsonAnswer } from '../oci/serving/answer.ts';
import { READING, type Route } from '../oci/serving/http-side.ts';
import type { MeshRoot } from '../p2p/root/mesh-root.ts';
import { type RootParts, rootRoutes, rootStatusRoutes } from '../p2p/root/root-routes.ts';
import { TOKEN_PATH } from './access/access-tokens.ts';
import { PassthroughAccess } from './access/passthrough-access.ts';
import { type CacheRouteParts, cacheRoutes } from './cache/cache-routes.ts';
import { answerCallersConversion } from './conversion/callers-conversion.ts';
import { answerChain, answerImage, type ChainParts } from './conversion/chains.ts';
import {
  answerConversion,
  answerConversions,
  answerEvents,
  answerRetry,
  type ConversionParts,
} from './conversion/status.ts';
import { answerChunkTable, type ChunkTableParts } from './distribution/chunk-table-answer.ts';
import { answerDistribution, type DistributionParts } from './distribution/distribution.ts';
import { answerReadiness, type Readiness } from './operators/readiness.ts';
import { answerStatus, type StatusParts } from './operators/service-status.ts';
import { answerUi } from './operators/ui.ts';

/** What the listener for clients answers: container engines, node daemons, `dadi mount`. */
export function clientRoutes(
  parts: DistributionParts & ChunkTableParts,
  conversions: ConversionParts,
  chains: ChainParts | null,
  mesh: RootParts | null,
  readiness: Readiness,
): readonly Route[] {
  const distribution = {
    methods: READING,
    kind: 'distribution',
    handle: (request) => answerDistribution(parts, request),
  } satisfies Omit<Route, 'path'>;
  return [
    { path: '/v2', ...distribution },
    { path: '/v2/*', ...distribution },
    {
      path: '/dadi/v1/conversions/:digest',
      methods: READING,
      kind: 'conversion',
      handle: (request, { digest = '' }) => answerCallersConversion(parts, conversions, digest, request),
    },
    {
      path: '/dadi/v1/chunk-tables/:digest',
      methods: READING,
      kind: 'chunk-table',
      handle: (request, { digest = '' }) => answerChunkTable(parts, digest, request),
    },
    ...(chains === null ? [] : chainRoutes(chains)),
    ...(mesh === null ? [] : rootRoutes(mesh)),
    ...tokenRoutes(parts),
    ...healthRoutes(readiness),
  ];
}

/** What the listener for operators answers. */
export function adminRoutes(
  conversions: ConversionParts,
  status: StatusParts,
  cache: CacheRouteParts,
  mesh: MeshRoot | null,
): readonly Route[] {
  return [
    { path: '/metrics', methods: READING, kind: 'metrics', handle: () => status.metrics.answer() },
    { path: '/ui', methods: READING, kind: 'ui', handle: answerUi },
    { path: '/dadi/v1/status', methods: READING, kind: 'status', handle: () => answerStatus(status) },
    {
      path: '/dadi/v1/conversions',
      methods: READING,
      kind: 'conversions',
      handle: ({ query }) => answerConversions(conversions, query),
    },
    {
      path: '/dadi/v1/conversions/:digest',
      methods: READING,
      kind: 'conversion',
      handle: (_request, { digest = '' }) => answerConversion(conversions, digest),
    },
    {
      path: '/dadi/v1/conversions/:digest/events',
      methods: READING,
      kind: 'events',
      handle: (_request, { digest = '' }) => answerEvents(conversions, digest),
    },
    {
      path: '/dadi/v1/conversions/:digest/retry',
      methods: ['POST'],
      kind: 'retry',
      handle: (_request, { digest = '' }) => answerRetry(conversions, digest),
    },
    ...cacheRoutes(cache),
    ...(mesh === null ? [] : rootStatusRoutes(mesh)),
    ...healthRoutes(status.readiness),
  ];
}

/** For node daemons. */
function chainRoutes(parts: ChainParts): readonly Route[] {
  return [
    {
      path: '/dadi/v1/chains/:chain',
      methods: READING,
      kind: 'chain',
      handle: (request, { chain = '' }) => answerChain(parts, chain, request),
    },
    {
      path: '/dadi/v1/images/:digest',
      methods: READING,
      kind: 'image',
      handle: (request, { digest = '' }) => answerImage(parts, digest, request),
    },
  ];
}

function tokenRoutes({ access }: DistributionParts): readonly Route[] {
  if (!(access instanceof PassthroughAccess)) return [];
  const handle: Route['handle'] = (request) => access.token(request);
  return [{ path: TOKEN_PATH, methods: READING, kind: 'token', handle }];
}

function healthRoutes(readiness: Readiness): readonly Route[] {
  return [
    { path: '/healthz', methods: READING, kind: 'health', handle: () => jsonAnswer({ status: 'ok' }) },
    { path: '/readyz', methods: READING, kind: 'health', handle: () => answerReadiness(readiness) },
  ];
}
