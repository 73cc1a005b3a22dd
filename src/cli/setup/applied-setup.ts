import { createHash, randomUUID } from 'node:crypto';
import {
  chmodSync,
  chownSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmdirSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { z } from 'zod';
import { isSystemError } from '../../format/error-code.ts';
import { withoutAdded } from './docker.ts';
import { resolveOnHost } from './host-path.ts';
import type { FilePlan } from './plan.ts';
import { SetupError } from './setup-error.ts';
import { takeBack } from './toml-edit.ts';

/** Where is kept what files were before. */
const STATE = '/var/lib/dadi-mirror/setup';

const reversalSchema = z.discriminatedUnion('kind', [
  z.object({ kind: z.literal('whole') }),
  z.object({
    kind: z.literal('toml'),
    changes: z
      .array(
        z.object({ path: z.array(z.string()).readonly(), after: z.string(), before: z.string().nullable() }),
      )
      .readonly(),
  }),
  z.object({
    kind: z.literal('json'),
    added: z.array(z.object({ key: z.string(), value: z.string() })).readonly(),
  }),
]);
const recordSchema = z.object({
  files: z.array(
    z.object({
      path: z.string(),
      before: z.string().nullable(),
      afterSha256: z.string(),
      /** Directories that were made for it, the innermost first. */
      madeDirectories: z.array(z.string()),
      reversal: reversalSchema,
    }),
  ),
});
type FileRecord = z.infer<typeof recordSchema>['files'][number];

/** What was done to a file. */
export interface FileChange {
  readonly path: string;
  readonly what: 'written' | 'changed' | 'restored' | 'removed' | 'unchanged' | 'left';
}

/** What was set up for a runtime on a host, or an image of one, and how it is undone. */
export class AppliedSetup {
  readonly #root: string;
  readonly #recordPath: string;
  readonly #records: readonly FileRecord[];

  private constructor(root: string, recordPath: string, records: readonly FileRecord[]) {
    this.#root = root;
    this.#recordPath = recordPath;
    this.#records = records;
  }

  /** @throws whatever keeps the record of an earlier set-up from being read */
  static load(root: string, runtime: string): AppliedSetup {
    const path = resolveOnHost(root, `${STATE}/${runtime}.json`);
    const text = readIfThere(path);
    return new AppliedSetup(root, path, text === null ? [] : recordSchema.parse(JSON.parse(text)).files);
  }

  /** A file as it would be if the set-up were undone; null if there would be none. */
  readonly original = (path: string): string | null => {
    const current = readIfThere(this.#at(path));
    const record = this.#records.find((one) => one.path === path);
    return record === undefined ? current : reversed(current, record).text;
  };

  /** Names in a directory; none if it is not there. */
  readonly names = (directory: string): string[] => {
    const path = this.#at(directory);
    return existsSync(path) ? readdirSync(path).sort() : [];
  };

  /** Writes what differs; takes back what an earlier set-up did that this one does not. */
  apply(files: readonly FilePlan[]): FileChange[] {
    const dropped = this.#records.filter(({ path }) => !files.some((file) => file.path === path));
    const undone = dropped.map((record) => this.#undo(record));
    const records: FileRecord[] = [];
    const changes = files.map(({ path, before, after, reversal }): FileChange => {
      const target = this.#at(path);
      const current = readIfThere(target);
      const known = this.#records.find((one) => one.path === path);
      const madeDirectories = known?.madeDirectories ?? missingDirectories(this.#root, target);
      // What was so before is nothing of ours.
      if (before !== after) {
        records.push({ path, before, afterSha256: hashOf(after), madeDirectories, reversal });
      }
      if (current === after) return { path, what: 'unchanged' };
      this.#save(records);
      write(target, after);
      return { path, what: current === null ? 'written' : 'changed' };
    });
    this.#save(records);
    return [...undone, ...changes];
  }

  /** Takes all back: byte for byte where nobody has changed a file since; else our own values only. */
  undo(): FileChange[] {
    const changes = this.#records.map((record) => this.#undo(record));
    this.#save([]);
    return changes;
  }

  #undo(record: FileRecord): FileChange {
    const { path } = record;
    const target = this.#at(path);
    const current = readIfThere(target);
    const { text, isLeft } = reversed(current, record);
    if (text === current) return { path, what: isLeft ? 'left' : 'unchanged' };
    if (text !== null) {
      write(target, text);
      return { path, what: 'restored' };
    }
    rmSync(target);
    for (const directory of record.madeDirectories) removeIfEmpty(join(this.#root, directory));
    return { path, what: 'removed' };
  }

  #at(path: string): string {
    return resolveOnHost(this.#root, path);
  }

  #save(records: readonly FileRecord[]): void {
    if (records.length === 0) {
      rmSync(this.#recordPath, { force: true });
      removeIfEmpty(dirname(this.#recordPath));
      return;
    }
    mkdirSync(dirname(this.#recordPath), { recursive: true, mode: 0o700 });
    // Settings of runtimes hold secrets now and then.
    write(this.#recordPath, JSON.stringify({ files: records }), 0o600);
  }
}

/** A file's text without what was set. `isLeft`: it was changed since, and nothing of it can be told to be ours. */
function reversed(
  current: string | null,
  { before, afterSha256, reversal }: FileRecord,
): { readonly text: string | null; readonly isLeft: boolean } {
  if (current === null) return { text: null, isLeft: false };
  if (hashOf(current) === afterSha256) return { text: before, isLeft: false };
  switch (reversal.kind) {
    case 'whole':
      return { text: current, isLeft: current !== before };
    case 'toml':
      return { text: reversal.changes.toReversed().reduce(takeBack, current), isLeft: false };
    case 'json':
      return { text: withoutAdded(current, reversal.added), isLeft: false };
  }
}

/** @throws SetupError for what could not be written back as it is */
function readIfThere(path: string): string | null {
  let bytes: Buffer;
  try {
    bytes = readFileSync(path);
  } catch (error) {
    if (isSystemError(error, 'ENOENT')) return null;
    throw error;
  }
  const text = bytes.toString('utf8');
  if (Buffer.from(text).equals(bytes)) return text;
  throw new SetupError(`${path} is not UTF-8: put that right first`);
}

/** In one step, with the rights that the file has. @param target no link */
function write(target: string, text: string, mode = 0o644): void {
  mkdirSync(dirname(target), { recursive: true });
  const half = `${target}.${randomUUID()}.new`;
  try {
    writeFileSync(half, text, { mode, flag: 'wx', flush: true });
    if (existsSync(target)) {
      const { mode: rights, uid, gid } = statSync(target);
      chmodSync(half, rights & 0o7777);
      chownSync(half, uid, gid);
    }
    renameSync(half, target);
  } catch (error) {
    rmSync(half, { force: true });
    throw error;
  }
}

/** Below the root, the innermost first. */
function missingDirectories(root: string, target: string): string[] {
  const missing: string[] = [];
  for (let at = dirname(target); at !== dirname(at) && !existsSync(at); at = dirname(at)) {
    missing.push(`/${relative(root, at)}`);
  }
  return missing;
}

function removeIfEmpty(directory: string): void {
  try {
    rmdirSync(directory);
  } catch {
    // It is not there, or somebody has put something into it.
  }
}

function hashOf(text: string): string {
  return createHash('sha256').update(text).digest('hex');
}
