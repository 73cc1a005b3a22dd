import { isDeepStrictEqual } from 'node:util';

/** The keys whose values differ: dotted, down to the first value that is not an object: `conversion.level`. */
export function changedKeys(before: object, now: object, prefix = ''): string[] {
  const keys = [...new Set([...Object.keys(before), ...Object.keys(now)])];
  return keys.flatMap((key) => {
    const [old, fresh]: [unknown, unknown] = [valueAt(before, key), valueAt(now, key)];
    if (isDeepStrictEqual(old, fresh)) return [];
    const name = `${prefix}${key}`;
    return isPlain(old) && isPlain(fresh) ? changedKeys(old, fresh, `${name}.`) : [name];
  });
}

function valueAt(holder: object, key: string): unknown {
  return Object.entries(holder).find(([name]) => name === key)?.[1];
}

function isPlain(value: unknown): value is object {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
