import { readFileSync } from 'node:fs';
import { parse, YAMLParseError } from 'yaml';
import { ConfigError } from './errors.ts';

/** A configuration as it was written, unchecked. */
export type Settings = { readonly [key: string]: unknown };

/**
 * The configuration file as it is, unchecked.
 * @throws ConfigError that names file, line and column; never what stands there, which may be a password
 */
export function readConfigFile(path: string): Settings {
  const parsed = parseYaml(path, readText(path)) ?? {};
  if (!isSettings(parsed)) {
    throw new ConfigError(
      `${path}: this is not a list of "key: value" lines; write for example "tagTtlMs: 60000"`,
    );
  }
  return parsed;
}

function readText(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch (cause) {
    throw new ConfigError(`cannot read the configuration ${path}`, { cause });
  }
}

function parseYaml(path: string, text: string): unknown {
  try {
    return parse(text);
  } catch (error) {
    if (!(error instanceof YAMLParseError)) throw error;
    const [start] = error.linePos ?? [];
    const where = start === undefined ? path : `${path}:${start.line}:${start.col}`;
    const what = error.message.split(/ at line \d/)[0];
    throw new ConfigError(`${where}: this is not YAML: ${what}; check indentation, colons and quotes there`);
  }
}

/** `over` wins where it says something; objects are merged key by key. */
export function mergeSettings(under: Settings, over: Settings): Settings {
  const merged: Record<string, unknown> = { ...under };
  for (const [key, value] of Object.entries(over)) {
    if (value === undefined) continue;
    const below = merged[key];
    merged[key] = isSettings(value) ? mergeSettings(isSettings(below) ? below : {}, value) : value;
  }
  return merged;
}

/** Whether something is said at a path, or at what it leads through. */
export function isSet(settings: Settings, path: readonly PropertyKey[]): boolean {
  let value: unknown = settings;
  for (const key of path) {
    if (!isSettings(value)) break;
    value = Object.hasOwn(value, key) ? value[String(key)] : undefined;
  }
  return value !== undefined;
}

function isSettings(value: unknown): value is Settings {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
