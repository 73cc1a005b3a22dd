import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import Database from 'better-sqlite3';
import { errorCode } from '../format/error-code.ts';
import { ioError, StoreError } from './errors.ts';

/**
 * One process a directory. The kernel holds the lock (SQLite's exclusive lock on a file of its own), so it ends
 * with the process however that ends, and holds between containers that share the directory.
 */
export class DirectoryLock {
  readonly #database: Database.Database;

  private constructor(database: Database.Database) {
    this.#database = database;
  }

  /** Throws ERR_STORE_LOCKED, naming the other process, if the directory is in use. */
  static acquire(directory: string): DirectoryLock {
    const holderPath = join(directory, 'lock.pid');
    let database: Database.Database | null = null;
    try {
      database = new Database(join(directory, 'lock'), { timeout: 0 });
      database.exec('BEGIN EXCLUSIVE');
      writeFileSync(holderPath, `${process.pid}\n`);
      return new DirectoryLock(database);
    } catch (cause) {
      database?.close();
      if (errorCode(cause)?.startsWith('SQLITE_BUSY')) {
        throw new StoreError(
          'ERR_STORE_LOCKED',
          `${directory} is in use by ${holder(holderPath)}: stop it, or give this one another data directory`,
          { cause },
        );
      }
      throw ioError(`cannot lock ${directory}`, cause);
    }
  }

  release(): void {
    this.#database.close();
  }
}

function holder(path: string): string {
  try {
    return `process ${readFileSync(path, 'utf8').trim()}`;
  } catch {
    return 'another process';
  }
}
