import { type RawBuilder, sql } from 'kysely';
import type { Digest } from '../oci/digest.ts';
import { PRIORITY } from './conversion-priority.ts';
import type { SqlDatabase } from './sql-database.ts';

export const CONVERSION_STATES = ['queued', 'running', 'done', 'failed'] as const;
export type ConversionState = (typeof CONVERSION_STATES)[number];

export interface ConversionProgress {
  readonly layersDone: number;
  readonly layersTotal: number;
  readonly bytesDone: number;
  readonly bytesTotal: number;
}

export interface ConvertedManifest {
  readonly digest: Digest;
  readonly mediaType: string;
  readonly sizeBytes: number;
  /** Of all its layers, as they are stored; 0 for an index. */
  readonly layerBytes: number;
}

/** An original manifest to be converted with one profile. */
export interface ConversionRequest {
  readonly digest: Digest;
  readonly profile: string;
  readonly kind: 'image' | 'index';
  /** Where it was asked for: its layers are fetched from there, what comes of it is shown there. */
  readonly upstream: string;
  readonly repository: string;
  readonly platform: string | null;
  /** The greater one's turn comes first; among equals the older one's. See {@link PRIORITY}. */
  readonly priority: number;
  readonly notBeforeMs: number;
  /** Names all that decides, beside image and profile, whether a conversion succeeds: the program and its limits. */
  readonly policy: string;
}

/** Why a conversion failed, and what becomes of it. */
export interface ConversionFailure {
  readonly code: string;
  readonly message: string;
  /** When it is tried again by itself; null for not at all. */
  readonly nextAttemptMs: number | null;
  /** Under which it failed. */
  readonly policy: string;
}

export interface ConversionRecord extends ConversionRequest {
  readonly state: ConversionState;
  readonly progress: ConversionProgress;
  readonly converted: ConvertedManifest | null;
  /** Of the last failure since it was queued. */
  readonly error: string | null;
  readonly errorCode: string | null;
  /** How often it failed since it was queued. */
  readonly attempts: number;
  /** When a failed one is tried again by itself; null for not at all. */
  readonly nextAttemptMs: number | null;
  readonly createdAtMs: number;
  readonly updatedAtMs: number;
  /** When the last attempt began; null before the first one. */
  readonly startedAtMs: number | null;
}

/** The code of what is not converted because nobody wants it to be: no failure, though it stands among them. */
export const LEFT_CODE = 'ERR_CONVERSION_NOT_WANTED';

/**
 * The conversions, past and to come: one row for each original manifest and profile. A running one belongs to the
 * process that took it for as long as it renews its lease; then any other may take it.
 */
export class ConversionTable {
  readonly #database: SqlDatabase;
  readonly #owner: string;

  /** @param owner of whatever is taken here */
  constructor(database: SqlDatabase, owner: string) {
    this.#database = database;
    this.#owner = owner;
  }

  /**
   * Queues a conversion unless there is one. If it is there, a greater priority or an earlier start counts,
   * and a failed one that would not be tried again by itself is queued again if it failed under another policy, to be
   * fetched from where it was asked for now. One that was left as it is ({@link leave}) is queued in any case.
   */
  async enqueue(request: ConversionRequest, nowMs: number): Promise<void> {
    await enqueueIn(this.#database, request, nowMs);
  }

  /**
   * Queues an index and `images` of those it is made of. Its turn comes when each of its images that was ever queued is
   * done or has failed; where all of them are `unasked`, one of them must have been.
   */
  async enqueueIndex(
    index: ConversionRequest,
    images: readonly ConversionRequest[],
    unasked: readonly Digest[],
    nowMs: number,
  ): Promise<void> {
    await this.#database.transaction(async (inside) => {
      await enqueueIn(inside, index, nowMs);
      for (const image of images) await enqueueIn(inside, image, nowMs);
      for (const child of [...images.map(({ digest }) => digest), ...unasked]) {
        await inside.write(sql`
          INSERT INTO conversion_children (parent, profile, child)
          VALUES (${index.digest}, ${index.profile}, ${child}) ON CONFLICT DO NOTHING`);
      }
    });
  }

  /** Remembers why an image or index is left as it is, unless it is converted for somebody else. */
  async leave(request: ConversionRequest, reason: string, nowMs: number): Promise<void> {
    const { digest, profile, kind, upstream, repository, platform, priority, notBeforeMs, policy } = request;
    await this.#database.write(sql`
      INSERT INTO conversions AS known (digest, profile, kind, state, priority, not_before_ms, upstream,
        repository, platform, policy, error, error_code, created_at_ms, updated_at_ms)
      VALUES (${digest}, ${profile}, ${kind}, 'failed', ${priority}, ${notBeforeMs}, ${upstream}, ${repository},
        ${platform}, ${policy}, ${reason}, ${LEFT_CODE}, ${nowMs}, ${nowMs})
      ON CONFLICT (digest, profile) DO UPDATE SET error = excluded.error, policy = excluded.policy,
        updated_at_ms = excluded.updated_at_ms
      WHERE known.error_code = ${LEFT_CODE} AND known.policy <> excluded.policy`);
  }

  /** How many that wait are to begin before this one. */
  async ahead({ profile, priority, createdAtMs, digest }: ConversionRecord): Promise<number> {
    const row = await this.#database.row(sql<{ count: number }>`
      SELECT count(*) AS count FROM conversions WHERE profile = ${profile} AND state = 'queued'
        AND (priority > ${priority} OR (priority = ${priority} AND (created_at_ms < ${createdAtMs}
          OR (created_at_ms = ${createdAtMs} AND digest < ${digest}))))`);
    return Number(row?.count ?? 0);
  }

  /** How many there are in each state. */
  async counts(profile: string): Promise<Record<ConversionState, number>> {
    const rows = await this.#database.rows(sql<{ state: ConversionState; count: number }>`
      SELECT state, count(*) AS count FROM conversions WHERE profile = ${profile} GROUP BY state`);
    const counts = { queued: 0, running: 0, done: 0, failed: 0 };
    for (const { state, count } of rows) counts[state] = Number(count);
    return counts;
  }

  /** The images of an index. */
  async children(index: Digest, profile: string): Promise<ConversionRecord[]> {
    return this.#records(sql`WHERE profile = ${profile} AND digest IN (
      SELECT child FROM conversion_children WHERE parent = ${index} AND profile = ${profile})`);
  }

  /**
   * Marks the next conversion in turn as running here until `leaseUntilMs` and returns it; null if none is ready, or
   * another process was faster. One whose owner let its lease end is ready too.
   * @param leastPriority others are not looked at; null for all
   */
  async takeNext(
    profile: string,
    leaseUntilMs: number,
    nowMs: number,
    leastPriority: number | null = null,
  ): Promise<ConversionRecord | null> {
    const isUrgent = leastPriority === null ? sql`` : sql`AND priority >= ${leastPriority}`;
    const row = await this.#database.row(sql<Row>`
      UPDATE conversions SET state = 'running', owner = ${this.#owner}, lease_until_ms = ${leaseUntilMs},
        started_at_ms = ${nowMs},
        interruptions = interruptions + CASE state WHEN 'running' THEN 1 ELSE 0 END, updated_at_ms = ${nowMs}
      WHERE ${START} <= ${nowMs} AND (digest, profile) = (
        SELECT digest, profile FROM conversions
        WHERE profile = ${profile} AND state <> 'done' AND ${START} <= ${nowMs} AND ${IMAGES_DONE} ${isUrgent}
        ORDER BY priority DESC, created_at_ms, digest LIMIT 1)
      RETURNING ${COLUMNS}`);
    return row === null ? null : toRecord(row);
  }

  /** False if the conversion is no longer ours: its lease had ended, and another process has it or had it. */
  async renew(digest: Digest, profile: string, leaseUntilMs: number): Promise<boolean> {
    const renewed = await this.#database.write(sql`
      UPDATE conversions SET lease_until_ms = ${leaseUntilMs}
      WHERE digest = ${digest} AND profile = ${profile} AND state = 'running' AND owner = ${this.#owner}`);
    return renewed === 1;
  }

  /** When the next conversion may start, or null if there is none. */
  async nextStartMs(profile: string): Promise<number | null> {
    const row = await this.#database.row(sql<{ startMs: number | null }>`
      SELECT min(${START}) AS "startMs" FROM conversions
      WHERE profile = ${profile} AND state <> 'done' AND ${IMAGES_DONE}`);
    return row?.startMs ?? null;
  }

  async setProgress(
    digest: Digest,
    profile: string,
    { layersDone, layersTotal, bytesDone, bytesTotal }: ConversionProgress,
    nowMs: number,
  ): Promise<void> {
    await this.#database.write(sql`
      UPDATE conversions SET layers_done = ${layersDone}, layers_total = ${layersTotal},
        bytes_done = ${bytesDone}, bytes_total = ${bytesTotal}, updated_at_ms = ${nowMs}
      WHERE digest = ${digest} AND profile = ${profile}`);
  }

  /** An index over it that was put together without it is queued again. */
  async setDone(digest: Digest, profile: string, converted: ConvertedManifest, nowMs: number): Promise<void> {
    await this.#database.transaction(async (inside) => {
      await inside.write(sql`
        UPDATE conversions SET ${untried('done')}, converted_digest = ${converted.digest},
          converted_media_type = ${converted.mediaType}, converted_size_bytes = ${converted.sizeBytes},
          converted_layer_bytes = ${converted.layerBytes}, updated_at_ms = ${nowMs}
        WHERE digest = ${digest} AND profile = ${profile}`);
      await inside.write(sql`
        UPDATE conversions SET ${untried('queued')}, not_before_ms = ${nowMs}, updated_at_ms = ${nowMs}
        WHERE profile = ${profile} AND state IN ('done', 'failed') AND digest IN (
          SELECT parent FROM conversion_children WHERE child = ${digest} AND profile = ${profile})`);
    });
  }

  /**
   * Remembers why, and when it is tried again: then it comes behind all that was not tried yet. Says nothing about one
   * that another process has taken meanwhile.
   */
  async setFailed(digest: Digest, profile: string, failure: ConversionFailure, nowMs: number): Promise<void> {
    await this.#database.write(sql`
      UPDATE conversions SET ${failed(failure, nowMs)}
      WHERE digest = ${digest} AND profile = ${profile} AND (state <> 'running' OR owner = ${this.#owner})`);
  }

  /** Queues a failed conversion again, as if it had never been tried, and those of its images that failed. */
  async retry(digest: Digest, profile: string, priority: number, nowMs: number): Promise<void> {
    await this.#database.write(sql`
      UPDATE conversions SET ${untried('queued')}, not_before_ms = ${nowMs}, updated_at_ms = ${nowMs},
        priority = CASE WHEN priority > ${priority} THEN priority ELSE ${priority} END
      WHERE profile = ${profile} AND state = 'failed' AND (digest = ${digest} OR digest IN (
        SELECT child FROM conversion_children WHERE parent = ${digest} AND profile = ${profile}))`);
  }

  /** Gives back one that was taken here but not finished. */
  async requeue(digest: Digest, profile: string, nowMs: number): Promise<void> {
    await this.#database.write(sql`
      UPDATE conversions SET state = 'queued', owner = NULL, updated_at_ms = ${nowMs}
      WHERE digest = ${digest} AND profile = ${profile} AND state = 'running' AND owner = ${this.#owner}`);
  }

  /** That during which `failure.after` processes have ended has failed. */
  async giveUpInterrupted(
    failure: ConversionFailure & { readonly after: number },
    nowMs: number,
  ): Promise<void> {
    await this.#database.write(sql`
      UPDATE conversions SET ${failed(failure, nowMs)}
      WHERE state = 'running' AND lease_until_ms <= ${nowMs} AND interruptions + 1 >= ${failure.after}`);
  }

  /** What runs was left by a process that has ended. */
  async expireLeases(): Promise<void> {
    await this.#database.write(sql`UPDATE conversions SET lease_until_ms = 0 WHERE state = 'running'`);
  }

  async get(digest: Digest, profile: string): Promise<ConversionRecord | null> {
    const records = await this.#records(sql`WHERE digest = ${digest} AND profile = ${profile}`);
    return records[0] ?? null;
  }

  /** The newest first. */
  async list(): Promise<ConversionRecord[]> {
    return this.#records(sql`ORDER BY created_at_ms DESC, digest`);
  }

  async #records(which: RawBuilder<unknown>): Promise<ConversionRecord[]> {
    const rows = await this.#database.rows(sql<Row>`SELECT ${COLUMNS} FROM conversions ${which}`);
    return rows.map(toRecord);
  }
}

interface Row extends ConversionRequest, ConversionProgress {
  readonly state: ConversionState;
  readonly convertedDigest: Digest | null;
  readonly convertedMediaType: string | null;
  readonly convertedSizeBytes: number | null;
  readonly convertedLayerBytes: number;
  readonly error: string | null;
  readonly errorCode: string | null;
  readonly attempts: number;
  readonly nextAttemptMs: number | null;
  readonly createdAtMs: number;
  readonly updatedAtMs: number;
  readonly startedAtMs: number | null;
}

function toRecord(row: Row): ConversionRecord {
  const { layersDone, layersTotal, bytesDone, bytesTotal, ...rest } = row;
  const { convertedDigest, convertedMediaType, convertedSizeBytes, convertedLayerBytes, ...record } = rest;
  const converted =
    convertedDigest === null || convertedMediaType === null || convertedSizeBytes === null
      ? null
      : {
          digest: convertedDigest,
          mediaType: convertedMediaType,
          sizeBytes: convertedSizeBytes,
          layerBytes: convertedLayerBytes,
        };
  return { ...record, converted, progress: { layersDone, layersTotal, bytesDone, bytesTotal } };
}

const COLUMNS = sql.raw(`digest, profile, kind, state, priority, not_before_ms AS "notBeforeMs", upstream,
  repository, platform, converted_digest AS "convertedDigest", converted_media_type AS "convertedMediaType",
  converted_size_bytes AS "convertedSizeBytes", converted_layer_bytes AS "convertedLayerBytes",
  started_at_ms AS "startedAtMs", error, layers_done AS "layersDone",
  layers_total AS "layersTotal", bytes_done AS "bytesDone", bytes_total AS "bytesTotal",
  error_code AS "errorCode", policy, attempts, next_attempt_ms AS "nextAttemptMs",
  created_at_ms AS "createdAtMs", updated_at_ms AS "updatedAtMs"`);

/** When the conversion may start by itself; NULL for not at all. */
const START = sql.raw(`CASE state WHEN 'queued' THEN not_before_ms WHEN 'failed' THEN next_attempt_ms
  WHEN 'running' THEN lease_until_ms END`);

const IMAGES_DONE = sql.raw(`NOT EXISTS (
  SELECT 1 FROM conversion_children AS link JOIN conversions AS child
    ON child.digest = link.child AND child.profile = link.profile
  WHERE link.parent = conversions.digest AND link.profile = conversions.profile
    AND child.state IN ('queued', 'running'))
  AND (kind = 'image' OR NOT EXISTS (
    SELECT 1 FROM conversion_children AS link
    WHERE link.parent = conversions.digest AND link.profile = conversions.profile)
  OR EXISTS (
    SELECT 1 FROM conversion_children AS link JOIN conversions AS child
      ON child.digest = link.child AND child.profile = link.profile
    WHERE link.parent = conversions.digest AND link.profile = conversions.profile))`);

/** Nothing is known against it. */
function untried(state: 'queued' | 'done') {
  return sql.raw(`state = '${state}', owner = NULL, error = NULL, error_code = NULL, attempts = 0,
    interruptions = 0, next_attempt_ms = NULL`);
}

function failed({ code, message, nextAttemptMs, policy }: ConversionFailure, nowMs: number) {
  return sql`state = 'failed', owner = NULL, error = ${message}, error_code = ${code}, policy = ${policy},
    attempts = attempts + 1, next_attempt_ms = ${nextAttemptMs}, priority = ${PRIORITY.retry},
    updated_at_ms = ${nowMs}`;
}

async function enqueueIn(database: SqlDatabase, request: ConversionRequest, nowMs: number): Promise<void> {
  const { digest, profile, kind, upstream, repository, platform, priority, notBeforeMs, policy } = request;
  const ifFailed = (column: string) =>
    sql.raw(`${column} = CASE known.state WHEN 'failed' THEN excluded.${column} ELSE known.${column} END`);
  await database.write(sql`
    INSERT INTO conversions AS known (digest, profile, kind, state, priority, not_before_ms, upstream,
      repository, platform, policy, created_at_ms, updated_at_ms)
    VALUES (${digest}, ${profile}, ${kind}, 'queued', ${priority}, ${notBeforeMs}, ${upstream}, ${repository},
      ${platform}, ${policy}, ${nowMs}, ${nowMs})
    ON CONFLICT (digest, profile) DO UPDATE SET
      ${untried('queued')},
      priority = CASE WHEN known.priority > excluded.priority THEN known.priority ELSE excluded.priority END,
      not_before_ms = CASE WHEN known.state <> 'failed' AND known.not_before_ms < excluded.not_before_ms
        THEN known.not_before_ms ELSE excluded.not_before_ms END,
      platform = coalesce(known.platform, excluded.platform),
      ${ifFailed('upstream')}, ${ifFailed('repository')},
      updated_at_ms = excluded.updated_at_ms
    WHERE (known.state = 'failed' AND known.next_attempt_ms IS NULL AND (known.policy <> excluded.policy OR known.error_code = ${LEFT_CODE}))
      OR (known.state = 'queued'
        AND (known.priority < excluded.priority OR known.not_before_ms > excluded.not_before_ms))`);
}
