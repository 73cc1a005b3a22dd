import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import type { ConversionLimits } from './layer-limits.ts';

/**
 * Names what decides, beside an image and the profile, whether its conversion succeeds: this program's version and
 * the limits. What failed under one policy may succeed under another.
 */
export function conversionPolicy(limits: ConversionLimits): string {
  const { version } = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')) as {
    version: string;
  };
  const sorted = Object.entries(limits).sort(([a], [b]) => (a < b ? -1 : 1));
  const hash = createHash('sha256').update(JSON.stringify(sorted)).digest('hex');
  return `${version}-${hash.slice(0, 12)}`;
}
