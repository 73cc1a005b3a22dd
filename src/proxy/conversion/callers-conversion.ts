import type { Answer, ServedRequest } from '../../oci/serving/answer.ts';
import { jsonAnswer } from '../../oci/serving/answer.ts';
import { parsePathDigest } from '../../oci/serving/paths.ts';
import { RequestError } from '../../oci/serving/request-error.ts';
import type { DistributionParts } from '../distribution/distribution.ts';
import { isSameRepository } from '../upstream/upstreams.ts';
import { type ConversionParts, conversionOf, neverAsked } from './status.ts';

/**
 * GET /dadi/v1/conversions/<digest of the original manifest>[?repository=NAME&ns=UPSTREAM], for who may pull the
 * original. Where rights differ from repository to repository, one that has it must be named, as in a path below
 * `/v2/`: to know the digest is no right to hear of it, nor of where else it is.
 * @throws RequestError, RegistryError, as for a manifest
 */
export async function answerCallersConversion(
  { access, upstreams, catalog }: Pick<DistributionParts, 'access' | 'upstreams' | 'catalog'>,
  conversions: ConversionParts,
  digestText: string,
  request: ServedRequest,
): Promise<Answer> {
  await access.admit(request);
  const digest = parsePathDigest(digestText);
  if (!access.isPerRepository) return jsonAnswer(await conversionOf(conversions, digest));
  const name = request.query.get('repository');
  if (name === null) {
    throw new RequestError('NAME_INVALID', 'say which repository has it: ?repository=NAME');
  }
  const target = upstreams.choose(name, request.query.get('ns'));
  const claim = { kind: 'manifest', reference: digest } as const;
  const { where } = await access.authorise({ name, target, claim }, request);
  if (!(await catalog.isLinked(where, digest))) throw neverAsked(digest);
  const status = await conversionOf(conversions, digest);
  const isTheirs = isSameRepository(status, where);
  // What went wrong may name another repository.
  return jsonAnswer({ ...status, ...where, error: isTheirs ? status.error : status.errorCode });
}
