import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { digestOf } from '../src/oci/digest.ts';
import { Catalog } from '../src/store/catalog.ts';
import { SqlDatabase } from '../src/store/sql-database.ts';
import { requireCapability } from './support/capabilities.ts';
import { catalogSuite } from './support/catalog-suite.ts';
import { contentSuite } from './support/content-suite.ts';
import { Postgres } from './support/postgres.ts';

const canRun = requireCapability('root', 'postgres');

const WHERE = { upstream: 'docker.io', repository: 'library/python' };
const A = digestOf('a');

let postgres: Postgres;

beforeAll(async () => {
  if (canRun) postgres = await Postgres.start();
});

afterAll(async () => {
  if (canRun) await postgres.stop();
});

async function home() {
  const url = await postgres.createDatabase();
  return { open: () => Catalog.openPostgres({ url }) };
}

/** Two processes' views of one new database. */
async function twoCatalogs(): Promise<{ one: Catalog; two: Catalog; close: () => Promise<void> }> {
  const { open } = await home();
  const [one, two] = await Promise.all([open(), open()]);
  return {
    one,
    two,
    close: async () => {
      await one.close();
      await two.close();
    },
  };
}

describe.skipIf(!canRun)('a catalog in PostgreSQL', () => {
  catalogSuite(home);
  contentSuite(home);
});

describe.skipIf(!canRun)('a connection to PostgreSQL that the server ends', () => {
  const pidOf = sql<{ pid: number }>`SELECT pg_backend_pid() AS pid`;

  test('in the middle of a transaction is replaced: the process lives on, and the transaction runs again', async () => {
    const url = await postgres.createDatabase();
    const [database, other] = [SqlDatabase.postgres({ url }), SqlDatabase.postgres({ url })];
    const pids: number[] = [];
    await database.transaction(async (inside) => {
      const pid = (await inside.row(pidOf))?.pid ?? 0;
      pids.push(pid);
      if (pids.length > 1) return;
      await other.rows(sql`SELECT pg_terminate_backend(${pid}, 10000)`);
      await inside.rows(pidOf);
    });
    expect(new Set(pids).size).toBe(2);
    expect(database.failures).toBe(0);
    await Promise.all([database.close(), other.close()]);
  });
});

describe.skipIf(!canRun)('replicas that share a catalog in PostgreSQL', () => {
  test('can start at the same time with an empty database', async () => {
    const { one, two, close } = await twoCatalogs();
    await one.link(WHERE, A);
    expect(await two.isLinked(WHERE, A)).toBe(true);
    await close();
  });

  test('never have the same lease, and get that of one that says nothing any more', async () => {
    const { one, two, close } = await twoCatalogs();
    const takes = [one, two, one, two].map((each) => each.leases.take('chain', 100, 0));
    const owners = (await Promise.all(takes)).map((isOurs, index) => (isOurs ? index % 2 : null));
    expect(new Set(owners.filter((owner) => owner !== null)).size).toBe(1);
    const [owner, other] = owners.includes(0) ? [one, two] : [two, one];
    expect(await other.leases.take('chain', 200, 99)).toBe(false);
    await other.leases.release('chain');
    expect(await other.leases.take('chain', 200, 99)).toBe(false);
    expect(await other.leases.take('chain', 200, 100)).toBe(true);
    expect(await owner.leases.take('chain', 300, 101)).toBe(false);
    await close();
  });

  test('each take other conversions, and one that was taken away cannot be spoiled by who had it', async () => {
    const { one, two, close } = await twoCatalogs();
    const wanted = Array.from({ length: 20 }, (_, index) => digestOf(String(index)));
    for (const digest of wanted) {
      await one.conversions.enqueue(
        {
          ...{ ...WHERE, digest, profile: 'p', kind: 'image', platform: null },
          ...{ priority: 0, notBeforeMs: 0, policy: 'v1' },
        },
        1,
      );
    }
    const taken: string[] = [];
    const takeAll = async ({ conversions }: Catalog) => {
      while (taken.length < wanted.length) {
        const record = await conversions.takeNext('p', 100, 1);
        if (record !== null) taken.push(record.digest);
      }
    };
    await Promise.all([takeAll(one), takeAll(two)]);
    expect(taken.toSorted()).toEqual(wanted.toSorted());

    const record = (await two.conversions.takeNext('p', 300, 200))!;
    expect(await one.conversions.renew(record.digest, 'p', 400)).toBe(false);
    await one.conversions.setFailed(
      record.digest,
      'p',
      { code: 'E', message: 'late', nextAttemptMs: null, policy: 'v1' },
      201,
    );
    await one.conversions.requeue(record.digest, 'p', 201);
    expect(await two.conversions.get(record.digest, 'p')).toMatchObject({ state: 'running' });
    await close();
  });

  test('write the same at once without standing in each other’s way', async () => {
    const { one, two, close } = await twoCatalogs();
    const digests = Array.from({ length: 100 }, (_, index) => digestOf(`blob ${index}`));
    await Promise.all(
      [one, two, one, two].flatMap((catalog, turn) => [
        catalog.link(WHERE, ...(turn % 2 === 0 ? digests : digests.toReversed())),
        catalog.putTag(WHERE, 'latest', { digest: A, checkedAtMs: turn }),
        catalog.putManifest(A, 'application/x', 1, []),
      ]),
    );
    for (const digest of digests) expect(await one.isLinked(WHERE, digest)).toBe(true);
    await close();
  });

  test('go on when the server was restarted', async () => {
    const { one, two, close } = await twoCatalogs();
    await one.link(WHERE, A);
    await postgres.restart();
    expect(await Promise.all([one.isLinked(WHERE, A), two.isLinked(WHERE, A)])).toEqual([true, true]);
    await close();
  });
});
