import type { ConversionTable } from '../store/conversion-table.ts';
import { type Answer, jsonAnswer } from './answer.ts';
import { conversionStatus } from './conversion-status.ts';
import { RequestError } from './errors.ts';
import { parsePathDigest } from './paths.ts';

/** GET /dadi/v1/conversions: all of them, the newest first. */
export function answerConversions(conversions: ConversionTable): Answer {
  return jsonAnswer({
    conversions: conversions.list().map((record) => conversionStatus(record, conversions)),
  });
}

/**
 * GET /dadi/v1/conversions/<digest of the original manifest>
 * @throws RequestError DIGEST_INVALID, MANIFEST_UNKNOWN
 */
export function answerConversion(conversions: ConversionTable, profile: string, digestText: string): Answer {
  const digest = parsePathDigest(digestText);
  const record = conversions.get(digest, profile);
  if (record === null) {
    throw new RequestError(
      'MANIFEST_UNKNOWN',
      `no conversion of ${digest} was ever asked for: pull it first`,
    );
  }
  return jsonAnswer(conversionStatus(record, conversions));
}
