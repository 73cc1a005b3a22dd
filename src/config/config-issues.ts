import { z } from 'zod';

type RawIssue = z.core.$ZodRawIssue;
type Path = readonly PropertyKey[];

/** What is wrong and what to write instead, where the schema itself has no better words. */
export function explainIssue(issue: RawIssue): string | undefined {
  switch (issue.code) {
    case 'invalid_type':
      if (issue.input === undefined) return `is missing; write ${article(issue.expected)}`;
      return `is ${kindOf(issue.input)}; write ${article(issue.expected)}`;
    case 'too_small':
      return `is too small; write ${issue.inclusive === false ? 'more than' : 'at least'} ${issue.minimum}`;
    case 'too_big':
      return `is too large; write ${issue.inclusive === false ? 'less than' : 'at most'} ${issue.maximum}`;
    case 'invalid_value':
      return `is none of the values that are known; write ${issue.values.map(String).join(', ')}`.replace(
        /, ([^,]*)$/,
        ' or $1',
      );
    default:
      return undefined;
  }
}

/** What is said of keys that the schema does not know. */
export function explainUnknownKeys(schema: z.ZodType, path: Path, keys: readonly string[]): string {
  const known = knownKeys(z.toJSONSchema(schema, { io: 'input', unrepresentable: 'any' }), path);
  return keys
    .map((key) => {
      const nearest = nearestOf(key, known);
      const remedy = nearest === null ? `the keys here are ${known.join(', ')}` : `did you mean ${nearest}?`;
      return `there is no key ${key}; ${remedy}`;
    })
    .join('; ');
}

type JsonSchema = z.core.JSONSchema.BaseSchema;

/** The keys of the object that a path leads to; alternatives are taken together. */
function knownKeys(schema: JsonSchema, path: Path): string[] {
  const found: string[] = [];
  const walk = (at: JsonSchema, rest: Path) => {
    for (const other of [...(at.anyOf ?? []), ...(at.oneOf ?? []), ...(at.allOf ?? [])]) walk(other, rest);
    const [key, ...further] = rest;
    if (key === undefined) {
      found.push(...Object.keys(at.properties ?? {}));
      return;
    }
    const next = typeof key === 'number' ? at.items : at.properties?.[String(key)];
    if (typeof next === 'object' && !Array.isArray(next)) walk(next, further);
  };
  walk(schema, path);
  return [...new Set(found)];
}

function nearestOf(key: string, known: readonly string[]): string | null {
  const [best] = known
    .map((name) => ({ name, distance: distance(key.toLowerCase(), name.toLowerCase()) }))
    .toSorted((a, b) => a.distance - b.distance);
  return best !== undefined && best.distance <= Math.max(2, key.length / 3) ? best.name : null;
}

/** How many letters have to be put in, taken out or changed (Levenshtein). */
function distance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, index) => index);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      const change = (row[j - 1] ?? 0) + (a[i - 1] === b[j - 1] ? 0 : 1);
      next.push(Math.min(change, (row[j] ?? 0) + 1, (next[j - 1] ?? 0) + 1));
    }
    row = next;
  }
  return row[b.length] ?? 0;
}

function kindOf(value: unknown): string {
  if (value === null) return 'empty';
  return article(Array.isArray(value) ? 'array' : typeof value);
}

const NAMES: Readonly<Record<string, string>> = {
  array: 'a list',
  object: 'an object of "key: value" lines',
  int: 'a whole number',
  string: 'a text',
  boolean: 'true or false',
};

function article(kind: string): string {
  return NAMES[kind] ?? `a ${kind}`;
}
