import { readdir, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { TableFiles } from './table-files.ts';
import { decodeRecord, RECORD_BYTES } from './table-record.ts';
import type { UseClock } from './use-clock.ts';

/**
 * The tables whose chunks a cache's directory holds, none of them open, and what of each is there.
 * @param removeOthers whether files that look like ours but are of no use are removed
 */
export async function tablesIn(
  directory: string,
  clock: UseClock,
  { removeOthers }: { readonly removeOthers: boolean },
): Promise<TableFiles[]> {
  const found: TableFiles[] = [];
  for (const [name, endings] of await filesByTable(directory)) {
    const files = await readTable(directory, name, endings, clock, !removeOthers).catch(() => null);
    if (files !== null) found.push(files);
    else if (removeOthers) {
      for (const ending of endings)
        await rm(join(directory, `${name}.${ending}`), { force: true, recursive: true });
    }
  }
  return found;
}

async function filesByTable(directory: string): Promise<Map<string, string[]>> {
  const found = new Map<string, string[]>();
  for (const entry of await readdir(directory)) {
    const [, name, ending] = /^([0-9a-f]{64})\.([a-z]+)$/.exec(entry) ?? [];
    if (name === undefined || ending === undefined) continue;
    found.set(name, [...(found.get(name) ?? []), ending]);
  }
  return found;
}

async function readTable(
  directory: string,
  name: string,
  endings: readonly string[],
  clock: UseClock,
  isShared: boolean,
): Promise<TableFiles | null> {
  if (!endings.includes('uses') || !endings.includes('data')) return null;
  const uses = await readFile(join(directory, `${name}.uses`));
  const record = decodeRecord(uses.subarray(0, RECORD_BYTES));
  if (record === null) return null;
  // A record that lies about its size must not make us ask for that much memory.
  if (TableFiles.usesBytes(record) !== uses.length) return null;
  const files = new TableFiles(directory, name, record, clock, isShared);
  await files.inspect();
  return files;
}
