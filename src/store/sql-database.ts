import BetterSqlite from 'better-sqlite3';
import {
  Kysely,
  PostgresDialect,
  type RawBuilder,
  type SqliteDatabase,
  SqliteDialect,
  type SqliteStatement,
} from 'kysely';
import { LRUCache } from 'lru-cache';
import pRetry from 'p-retry';
import { Pool, types } from 'pg';
import { errorCode } from '../format/error-code.ts';
import { ioError } from './errors.ts';

export interface PostgresOptions {
  /** `postgres://USER:PASSWORD@HOST:PORT/DATABASE?sslmode=…` */
  readonly url: string;
  readonly maxConnections?: number;
}

/** Statements that are kept ready: to prepare one takes longer than to find a row with it. */
const MAX_STATEMENTS = 256;
const MAX_CONNECTIONS = 10;
const CONNECT_MS = 5_000;
/** No question of ours takes long: what does is stuck. */
const STATEMENT_MS = 15_000;
const RETRIES = 3;
const RETRY_DELAY_MS = 50;

/**
 * Errors after which the same again may well succeed: two transactions in each other's way (PostgreSQL's class 40),
 * and a connection that the server, or what stands between, has closed.
 */
const TRANSIENT: ReadonlySet<string> = new Set(['40001', '40P01', '57P01', 'ECONNRESET', 'EPIPE']);

const INT8_OID = 20;
const getTypeParser = ((oid: number, format: 'text') =>
  // All our numbers are safe integers: bytes, and milliseconds since 1970.
  oid === INT8_OID ? Number : types.getTypeParser(oid, format)) as typeof types.getTypeParser;

/**
 * One database that speaks the SQL which SQLite and PostgreSQL have in common. What fails is a StoreError.
 * Statements must bear being repeated: one whose answer was lost is sent again.
 */
export class SqlDatabase {
  readonly kind: 'sqlite' | 'postgres';
  readonly #kysely: Kysely<unknown>;
  readonly #isTransaction: boolean;
  #failures = 0;

  private constructor(kind: 'sqlite' | 'postgres', kysely: Kysely<unknown>, isTransaction = false) {
    this.kind = kind;
    this.#kysely = kysely;
    this.#isTransaction = isTransaction;
  }

  /**
   * Opens or creates the file at `path` (`:memory:` keeps all in memory).
   * @throws StoreError
   */
  static sqlite(path: string): SqlDatabase {
    let database: BetterSqlite.Database | null = null;
    try {
      database = new BetterSqlite(path);
      database.pragma('journal_mode = WAL');
      // A power cut may lose the last moments of a WAL, never its consistency: what is lost is asked again.
      database.pragma('synchronous = NORMAL');
      database.pragma('foreign_keys = ON');
    } catch (cause) {
      database?.close();
      throw ioError(`cannot open the catalog ${path}`, cause);
    }
    const dialect = new SqliteDialect({ database: withStatementsKept(database) });
    return new SqlDatabase('sqlite', new Kysely({ dialect }));
  }

  /** Connects when it is first used. */
  static postgres({ url, maxConnections = MAX_CONNECTIONS }: PostgresOptions): SqlDatabase {
    const pool = new Pool({
      connectionString: url,
      max: maxConnections,
      connectionTimeoutMillis: CONNECT_MS,
      statement_timeout: STATEMENT_MS,
      query_timeout: 2 * STATEMENT_MS,
      keepAlive: true,
      application_name: 'dadi-mirror',
      types: { getTypeParser },
    });
    // A connection that breaks while nobody uses it: the pool makes another one.
    pool.on('error', () => {});
    // And of one that is lent nobody listens: without this, its end would be that of the process.
    pool.on('connect', (client) => void client.on('error', () => {}));
    return new SqlDatabase('postgres', new Kysely({ dialect: new PostgresDialect({ pool }) }));
  }

  /** How many questions failed, each after its repetitions. */
  get failures(): number {
    return this.#failures;
  }

  async rows<Row>(query: RawBuilder<Row>): Promise<readonly Row[]> {
    return this.#attempt(async () => (await query.execute(this.#kysely)).rows);
  }

  async row<Row>(query: RawBuilder<Row>): Promise<Row | null> {
    return (await this.rows(query))[0] ?? null;
  }

  /** How many rows were written. */
  async write(query: RawBuilder<unknown>): Promise<number> {
    return this.#attempt(async () => Number((await query.execute(this.#kysely)).numAffectedRows ?? 0n));
  }

  /** All of it or nothing. `work` may run again if another transaction was in its way. */
  async transaction<T>(work: (inside: SqlDatabase) => Promise<T>): Promise<T> {
    return this.#attempt(() =>
      this.#kysely
        .transaction()
        .execute((transaction) => work(new SqlDatabase(this.kind, transaction, true))),
    );
  }

  async close(): Promise<void> {
    await this.#kysely.destroy();
  }

  async #attempt<T>(work: () => Promise<T>): Promise<T> {
    try {
      // Within a transaction, only the whole can be tried again.
      if (this.kind === 'sqlite' || this.#isTransaction) return await work();
      return await pRetry(work, {
        retries: RETRIES,
        minTimeout: RETRY_DELAY_MS,
        randomize: true,
        shouldRetry: ({ error }) => isTransient(error),
      });
    } catch (cause) {
      if (!this.#isTransaction) this.#failures++;
      // The transaction's own loop has to see the database's code.
      throw this.#isTransaction ? cause : ioError('the catalog cannot be asked', cause);
    }
  }
}

function withStatementsKept(database: BetterSqlite.Database): SqliteDatabase {
  const statements = new LRUCache<string, BetterSqlite.Statement>({ max: MAX_STATEMENTS });
  return {
    close: () => void database.close(),
    prepare: (sql) => {
      const statement = statements.get(sql) ?? database.prepare(sql);
      statements.set(sql, statement);
      return statement as SqliteStatement;
    },
  };
}

/** How pg tells of a connection that has ended, without a code: also where a transaction on it is to be rolled back. */
const ENDED = /^Connection terminated|connection error and is not queryable/;

function isTransient(error: Error): boolean {
  return TRANSIENT.has(errorCode(error) ?? '') || ENDED.test(error.message);
}
