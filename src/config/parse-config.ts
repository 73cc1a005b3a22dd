import type { z } from 'zod';
import { explainIssue, explainUnknownKeys } from './config-issues.ts';
import { ConfigError } from './errors.ts';

/**
 * Checks a configuration as it was read from file, flags and environment.
 * @param source names where the value at a path came from; null where that is plain
 * @throws ConfigError that names every wrong key, where it stands, and what belongs there
 */
export function parseConfig<T extends z.ZodType>(
  schema: T,
  input: unknown,
  source: (path: readonly PropertyKey[]) => string | null = () => null,
): z.output<T> {
  const result = schema.safeParse(input, { error: explainIssue });
  if (result.success) return result.data;
  const lines = result.error.issues.map((issue) => {
    const { path, message } = issue;
    const isUnknown = issue.code === 'unrecognized_keys';
    const said = isUnknown ? explainUnknownKeys(schema, path, issue.keys) : message;
    const where = source(isUnknown ? [...path, issue.keys[0] ?? ''] : path);
    return `${where === null ? '' : `${where}: `}${path.join('.') || 'configuration'}: ${said}`;
  });
  throw new ConfigError(lines.join('\n'));
}
