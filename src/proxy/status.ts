import type { Digest } from '../oci/digest.ts';
import { CONVERSION_STATES, type ConversionTable } from '../store/conversion-table.ts';
import { type Answer, jsonAnswer } from './answer.ts';
import type { ConversionQueue } from './conversion-queue.ts';
import { type ConversionStatus, conversionStatus } from './conversion-status.ts';
import { RequestError } from './errors.ts';
import { parsePathDigest } from './paths.ts';

/** What conversions are told from. */
export interface ConversionParts {
  readonly conversions: ConversionTable;
  readonly profile: string;
  readonly queue: Pick<ConversionQueue, 'retry'>;
}

/**
 * GET /dadi/v1/conversions[?state=STATE]: all of them, or those in one state, the newest first.
 * @throws RequestError NAME_INVALID (there is no such state)
 */
export function answerConversions({ conversions }: ConversionParts, query: URLSearchParams): Answer {
  const state = query.get('state');
  if (state !== null && !STATES.includes(state)) {
    throw new RequestError('NAME_INVALID', `${JSON.stringify(state)} is none of ${STATES.join(', ')}`);
  }
  const all = conversions.list().map((record) => conversionStatus(record, conversions));
  return jsonAnswer({
    conversions: state === null ? all : all.filter((conversion) => conversion.state === state),
  });
}

const STATES: readonly string[] = CONVERSION_STATES;

/**
 * GET /dadi/v1/conversions/<digest of the original manifest>
 * @throws RequestError DIGEST_INVALID, MANIFEST_UNKNOWN
 */
export function answerConversion({ conversions, profile }: ConversionParts, digestText: string): Answer {
  return jsonAnswer(statusOf(conversions, profile, parsePathDigest(digestText)));
}

/**
 * POST /dadi/v1/conversions/<digest of the original manifest>/retry: a failed conversion is queued again; the answer
 * says how it stands then.
 * @throws RequestError DIGEST_INVALID, MANIFEST_UNKNOWN
 */
export function answerRetry({ conversions, profile, queue }: ConversionParts, digestText: string): Answer {
  const digest = parsePathDigest(digestText);
  statusOf(conversions, profile, digest);
  queue.retry(digest);
  return { ...jsonAnswer(statusOf(conversions, profile, digest)), status: 202 };
}

function statusOf(conversions: ConversionTable, profile: string, digest: Digest): ConversionStatus {
  const record = conversions.get(digest, profile);
  if (record === null) {
    throw new RequestError(
      'MANIFEST_UNKNOWN',
      `no conversion of ${digest} was ever asked for: pull it first`,
    );
  }
  return conversionStatus(record, conversions);
}
