import { errorCode } from '../../format/error-code.ts';
import { RegistryError } from '../../oci/errors.ts';
import type { ConversionFailure } from '../../store/conversion-table.ts';

const MIN_DELAY_MS = 60_000;
const MAX_DELAY_MS = 60 * 60_000;
/** Of the delay, so that what failed together does not come back together. */
const JITTER = 0.25;

/** Most of a day. */
const MAX_ATTEMPTS = 24;
/** For what may never pass, or costs a lot each time. */
const FEW_ATTEMPTS = 3;

/** What the image's own bytes bring about, with this program and these limits: the same each time. */
const PERMANENT: ReadonlySet<string> = new Set([
  'ERR_CONVERT_DIFF_ID',
  'ERR_CONVERT_IMAGE',
  'ERR_CONVERT_STREAM',
  'ERR_CONVERT_UNSUPPORTED',
  'ERR_CONFIG_INVALID',
  'ERR_DIGEST_INVALID',
  'ERR_LAYER_CONFLICT',
  'ERR_LIMIT',
  'ERR_MANIFEST_INVALID',
  'ERR_MANIFEST_TOO_BIG',
  'ERR_MANIFEST_UNSUPPORTED',
  'ERR_PROXY_CONVERSION_INPUT',
  'ERR_PROXY_CONVERSION_SMALL',
  'ERR_TAR_CORRUPT',
  'ERR_UNSUPPORTED',
]);

/** What passes when somebody has seen to it: upstream is away or refuses, the disk is full. */
const PASSING: ReadonlySet<string> = new Set([
  // The damaged file was removed: it is fetched again.
  'ERR_CONVERT_LAYER_DIGEST',
  'ERR_REGISTRY_BODY',
  'ERR_REGISTRY_PROTOCOL',
  'ERR_REGISTRY_RATE_LIMITED',
  'ERR_REGISTRY_STATUS',
  'ERR_REGISTRY_UNAUTHORIZED',
  'ERR_REGISTRY_UNREACHABLE',
  'ERR_STORE_BUCKET_FULL',
  'ERR_STORE_FULL',
  'ERR_STORE_IO',
  'ENOSPC',
  'EDQUOT',
  'EROFS',
]);

/**
 * What becomes of a conversion that failed for the `attempts`th time.
 * @param policy see {@link ConversionFailure}
 */
export function failureOf(
  error: unknown,
  { attempts, policy, nowMs }: { attempts: number; policy: string; nowMs: number },
): ConversionFailure {
  const code = errorCode(error) ?? 'ERR_PROXY_CONVERSION';
  const message = error instanceof Error ? error.message : String(error);
  if (attempts >= attemptsFor(code)) return { code, message, policy, nextAttemptMs: null };
  const asked = error instanceof RegistryError ? (error.retryAfterMs ?? 0) : 0;
  return { code, message, policy, nextAttemptMs: nowMs + Math.max(asked, delayMs(attempts)) };
}

function attemptsFor(code: string): number {
  if (PERMANENT.has(code)) return 1;
  return PASSING.has(code) ? MAX_ATTEMPTS : FEW_ATTEMPTS;
}

/** From a minute on, twice as long each time, up to an hour. */
function delayMs(attempts: number): number {
  const delay = MIN_DELAY_MS * 2 ** (attempts - 1) * (1 + JITTER * Math.random());
  return Math.round(Math.min(delay, MAX_DELAY_MS));
}
