import { sql } from 'kysely';
import type { SqlDatabase } from './sql-database.ts';

/**
 * Who does what only one may do at a time, among all processes that share a catalog. A lease that is not renewed ends
 * by itself: its owner has died..
 */
export class Leases {
  readonly #database: SqlDatabase;
  readonly #owner: string;

  /** @param owner of whatever is taken here */
  constructor(database: SqlDatabase, owner: string) {
    this.#database = database;
    this.#owner = owner;
  }

  /** Takes or renews a lease; false while somebody else has it. */
  async take(name: string, untilMs: number, nowMs: number): Promise<boolean> {
    const written = await this.#database.write(sql`
      INSERT INTO leases AS known (name, owner, until_ms) VALUES (${name}, ${this.#owner}, ${untilMs})
      ON CONFLICT (name) DO UPDATE SET owner = excluded.owner, until_ms = excluded.until_ms
      WHERE known.owner = excluded.owner OR known.until_ms <= ${nowMs}`);
    return written === 1;
  }

  /** Harmless if it is not ours. */
  async release(name: string): Promise<void> {
    await this.#database.write(sql`DELETE FROM leases WHERE name = ${name} AND owner = ${this.#owner}`);
  }

  /** What an earlier process of the same machine had: only where no other process can be alive. */
  async releaseAll(): Promise<void> {
    await this.#database.write(sql`DELETE FROM leases`);
  }
}
