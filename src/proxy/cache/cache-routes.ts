import { OciError } from '../../oci/errors.ts';
import type { Platform } from '../../oci/manifest.ts';
import { type Answer, jsonAnswer } from '../../oci/serving/answer.ts';
import { READING, type Route } from '../../oci/serving/http-side.ts';
import { RequestError } from '../../oci/serving/request-error.ts';
import { answerCache, answerGc, answerRemoval, type CacheAdminParts } from './cache-admin.ts';
import type { Preheater } from './preheater.ts';

/** Of one job: they come in a query. */
const MAX_IMAGES = 100;

export interface CacheRouteParts extends CacheAdminParts {
  readonly preheater: Preheater;
}

/** The part of the operators' listener that is about the cache. */
export function cacheRoutes(parts: CacheRouteParts): readonly Route[] {
  const { preheater } = parts;
  return [
    {
      path: '/dadi/v1/gc',
      methods: ['POST'],
      kind: 'gc',
      handle: ({ query }) => answerGc(parts, query),
    },
    {
      path: '/dadi/v1/cache',
      methods: [...READING, 'DELETE'],
      kind: 'cache',
      handle: ({ method, query }) =>
        method === 'DELETE' ? answerRemoval(parts, query) : answerCache(parts, query),
    },
    {
      path: '/dadi/v1/preheat',
      methods: ['POST'],
      kind: 'preheat',
      handle: ({ query }) => answerPreheat(preheater, query),
    },
    {
      path: '/dadi/v1/preheat/:id',
      methods: READING,
      kind: 'preheat',
      handle: (_request, { id = '' }) => answerJob(preheater, id),
    },
  ];
}

/**
 * POST /dadi/v1/preheat?image=REFERENCE[&image=…][&platform=OS/ARCHITECTURE[/VARIANT]…]: begins a job, and tells it.
 * @throws RequestError NAME_INVALID, NAME_UNKNOWN
 */
function answerPreheat(preheater: Preheater, query: URLSearchParams): Answer {
  const images = query.getAll('image');
  if (images.length === 0 || images.length > MAX_IMAGES) {
    throw new RequestError('NAME_INVALID', `name 1 to ${MAX_IMAGES} images; these are ${images.length}`);
  }
  try {
    const job = preheater.start(images, query.getAll('platform').map(platformOf));
    return { ...jsonAnswer(job), status: 202 };
  } catch (error) {
    if (error instanceof OciError) throw new RequestError('NAME_INVALID', error.message);
    throw error;
  }
}

/** GET /dadi/v1/preheat/ID @throws RequestError NAME_UNKNOWN */
function answerJob(preheater: Preheater, id: string): Answer {
  const job = preheater.get(id);
  if (job === null) {
    throw new RequestError('NAME_UNKNOWN', `there is no preheating ${id}: was the proxy restarted?`);
  }
  return jsonAnswer(job);
}

/** @throws RequestError NAME_INVALID */
function platformOf(text: string): Platform {
  const [os = '', architecture = '', variant, ...more] = text.split('/');
  if (os === '' || architecture === '' || more.length > 0) {
    throw new RequestError('NAME_INVALID', `${JSON.stringify(text)} is not OS/ARCHITECTURE[/VARIANT]`);
  }
  return { os, architecture, ...(variant === undefined ? {} : { variant }) };
}
