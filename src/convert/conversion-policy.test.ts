import { expect, test } from 'vitest';
import { conversionPolicy } from './conversion-policy.ts';
import { DEFAULT_LIMITS } from './layer-limits.ts';

test('a policy changes with any limit, and not with the order in which they stand', () => {
  const policy = conversionPolicy(DEFAULT_LIMITS);
  expect(policy).toMatch(/^\d+\.\d+\.\d+.*-[0-9a-f]{12}$/);
  expect(conversionPolicy({ ...DEFAULT_LIMITS, pathDepth: 7 })).not.toBe(policy);
  const reversed = Object.fromEntries(Object.entries(DEFAULT_LIMITS).reverse()) as typeof DEFAULT_LIMITS;
  expect(conversionPolicy(reversed)).toBe(policy);
});
