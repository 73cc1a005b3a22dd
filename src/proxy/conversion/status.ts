import type { Digest } from '../../oci/digest.ts';
import { type Answer, jsonAnswer } from '../../oci/serving/answer.ts';
import { parsePathDigest } from '../../oci/serving/paths.ts';
import { RequestError } from '../../oci/serving/request-error.ts';
import type { ConversionRecord, ConversionTable } from '../../store/conversion-table.ts';
import type { ConversionEvents } from './conversion-events.ts';
import type { ConversionQueue } from './conversion-queue.ts';
import { type ConversionStatus, conversionStatus, STATUS_STATES } from './conversion-status.ts';

/** What conversions are told from. */
export interface ConversionParts {
  readonly conversions: ConversionTable;
  readonly profile: string;
  readonly queue: Pick<ConversionQueue, 'retry'>;
  readonly events: ConversionEvents;
}

/**
 * GET /dadi/v1/conversions[?state=STATE]: all of them, or those in one state, the newest first.
 * @throws RequestError NAME_INVALID (there is no such state)
 */
export async function answerConversions(
  { conversions }: ConversionParts,
  query: URLSearchParams,
): Promise<Answer> {
  const state = query.get('state');
  if (state !== null && !STATES.includes(state)) {
    throw new RequestError('NAME_INVALID', `${JSON.stringify(state)} is none of ${STATES.join(', ')}`);
  }
  const records = await conversions.list();
  const waiting = records.filter((record) => record.state === 'queued').sort(byTurn);
  const ahead = new Map(waiting.map((record, index) => [record, index]));
  const all = await Promise.all(
    records.map((record) => conversionStatus(record, conversions, ahead.get(record))),
  );
  return jsonAnswer({
    conversions: state === null ? all : all.filter((conversion) => conversion.state === state),
  });
}

const STATES: readonly string[] = STATUS_STATES;

/** As the table takes them. */
function byTurn(a: ConversionRecord, b: ConversionRecord): number {
  return b.priority - a.priority || a.createdAtMs - b.createdAtMs || (a.digest < b.digest ? -1 : 1);
}

/**
 * GET /dadi/v1/conversions/<digest of the original manifest>
 * @throws RequestError DIGEST_INVALID, MANIFEST_UNKNOWN
 */
export async function answerConversion(parts: ConversionParts, digestText: string): Promise<Answer> {
  return jsonAnswer(await conversionOf(parts, parsePathDigest(digestText)));
}

/**
 * POST /dadi/v1/conversions/<digest of the original manifest>/retry: a failed conversion is queued again; the answer
 * says how it stands then.
 * @throws RequestError DIGEST_INVALID, MANIFEST_UNKNOWN
 */
export async function answerRetry(parts: ConversionParts, digestText: string): Promise<Answer> {
  const digest = parsePathDigest(digestText);
  await conversionOf(parts, digest);
  await parts.queue.retry(digest);
  return { ...jsonAnswer(await conversionOf(parts, digest)), status: 202 };
}

/**
 * GET /dadi/v1/conversions/<digest of the original manifest>/events
 * @throws RequestError DIGEST_INVALID, MANIFEST_UNKNOWN, UNAVAILABLE
 */
export function answerEvents(parts: ConversionParts, digestText: string): Promise<Answer> {
  const digest = parsePathDigest(digestText);
  return parts.events.answer(() => conversionOf(parts, digest));
}

/** @throws RequestError MANIFEST_UNKNOWN */
export async function conversionOf(
  { conversions, profile }: Pick<ConversionParts, 'conversions' | 'profile'>,
  digest: Digest,
): Promise<ConversionStatus> {
  const record = await conversions.get(digest, profile);
  if (record === null) throw neverAsked(digest);
  return conversionStatus(record, conversions);
}

export function neverAsked(digest: Digest): RequestError {
  return new RequestError('MANIFEST_UNKNOWN', `no conversion of ${digest} was ever asked for: pull it first`);
}
