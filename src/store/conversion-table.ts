import type { Database } from 'better-sqlite3';
import type { Digest } from '../oci/digest.ts';

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
  /** The greater one's turn comes first; among equals the older one's. */
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
}

/** Behind everything that was not tried yet. */
const RETRY_PRIORITY = -1;

/** The conversions, past and to come: one row for each original manifest and profile. */
export class ConversionTable {
  readonly #database: Database;
  readonly #statements: ReturnType<typeof prepareStatements>;

  constructor(database: Database) {
    this.#database = database;
    this.#statements = prepareStatements(database);
  }

  /**
   * Queues a conversion unless there is one. If it is there, a greater priority or an earlier start counts,
   * and a failed one that would not be tried again by itself is queued again if it failed under another policy, to be
   * fetched from where it was asked for now.
   */
  enqueue(request: ConversionRequest, nowMs: number): void {
    this.#statements.enqueue.run({ ...request, nowMs });
  }

  /** Queues an index and the images it is made of: its turn comes when each of them is done or has failed. */
  enqueueIndex(index: ConversionRequest, images: readonly ConversionRequest[], nowMs: number): void {
    this.#database.transaction(() => {
      this.enqueue(index, nowMs);
      for (const image of images) {
        this.enqueue(image, nowMs);
        this.#statements.addChild.run(index.digest, index.profile, image.digest);
      }
    })();
  }

  /** The images of an index. */
  children(index: Digest, profile: string): ConversionRecord[] {
    return this.#statements.children.all(index, profile).map(toRecord);
  }

  /** Marks the next conversion in turn as running and returns it; null if none is ready. */
  takeNext(profile: string, nowMs: number): ConversionRecord | null {
    const row = this.#statements.takeNext.get({ profile, nowMs });
    return row === undefined ? null : toRecord(row);
  }

  /** When the next queued conversion may start, or null if there is none. */
  nextStartMs(profile: string): number | null {
    return this.#statements.nextStart.get(profile)?.notBeforeMs ?? null;
  }

  setProgress(digest: Digest, profile: string, progress: ConversionProgress, nowMs: number): void {
    this.#statements.progress.run({ ...progress, digest, profile, nowMs });
  }

  /** An index over it that was put together without it is queued again. */
  setDone(digest: Digest, profile: string, converted: ConvertedManifest, nowMs: number): void {
    this.#database.transaction(() => {
      this.#statements.done.run(
        converted.digest,
        converted.mediaType,
        converted.sizeBytes,
        nowMs,
        digest,
        profile,
      );
      this.#statements.requeueParents.run({ digest, profile, nowMs });
    })();
  }

  /** Remembers why, and when it is tried again: then it comes behind all that was not tried yet. */
  setFailed(digest: Digest, profile: string, failure: ConversionFailure, nowMs: number): void {
    this.#statements.failed.run({ ...failure, digest, profile, nowMs });
  }

  /** Queues a failed conversion again, as if it had never been tried, and those of its images that failed. */
  retry(digest: Digest, profile: string, priority: number, nowMs: number): void {
    this.#statements.retry.run({ digest, profile, priority, nowMs });
  }

  /** Gives back one that was taken but not finished. */
  requeue(digest: Digest, profile: string, nowMs: number): void {
    this.#statements.requeue.run(nowMs, digest, profile);
  }

  /** What was taken and never finished is queued again. */
  requeueRunning(nowMs: number): void {
    this.#statements.requeueRunning.run(nowMs);
  }

  /**
   * After a start: what an earlier process was at when it ended is queued again, but that during which `failure.after`
   * processes have ended has failed.
   */
  requeueInterrupted(failure: ConversionFailure & { readonly after: number }, nowMs: number): void {
    this.#database.transaction(() => {
      this.#statements.countInterruption.run();
      this.#statements.failInterrupted.run({ ...failure, nowMs });
      this.requeueRunning(nowMs);
    })();
  }

  get(digest: Digest, profile: string): ConversionRecord | null {
    const row = this.#statements.get.get(digest, profile);
    return row === undefined ? null : toRecord(row);
  }

  /** The newest first. */
  list(): ConversionRecord[] {
    return this.#statements.list.all().map(toRecord);
  }
}

interface Row extends ConversionRequest, ConversionProgress {
  readonly state: ConversionState;
  readonly convertedDigest: Digest | null;
  readonly convertedMediaType: string | null;
  readonly convertedSizeBytes: number | null;
  readonly error: string | null;
  readonly errorCode: string | null;
  readonly attempts: number;
  readonly nextAttemptMs: number | null;
  readonly createdAtMs: number;
  readonly updatedAtMs: number;
}

function toRecord(row: Row): ConversionRecord {
  const { layersDone, layersTotal, bytesDone, bytesTotal, ...rest } = row;
  const { convertedDigest, convertedMediaType, convertedSizeBytes, ...record } = rest;
  const converted =
    convertedDigest === null || convertedMediaType === null || convertedSizeBytes === null
      ? null
      : { digest: convertedDigest, mediaType: convertedMediaType, sizeBytes: convertedSizeBytes };
  return { ...record, converted, progress: { layersDone, layersTotal, bytesDone, bytesTotal } };
}

const COLUMNS = `digest, profile, kind, state, priority, not_before_ms AS notBeforeMs, upstream, repository,
  platform, converted_digest AS convertedDigest, converted_media_type AS convertedMediaType,
  converted_size_bytes AS convertedSizeBytes, error, layers_done AS layersDone, layers_total AS layersTotal,
  bytes_done AS bytesDone, bytes_total AS bytesTotal, error_code AS errorCode, policy, attempts,
  next_attempt_ms AS nextAttemptMs, created_at_ms AS createdAtMs, updated_at_ms AS updatedAtMs`;

/** When the conversion may start by itself; NULL for not at all. */
const START = `CASE state WHEN 'queued' THEN not_before_ms WHEN 'failed' THEN next_attempt_ms END`;
const IMAGES_DONE = `NOT EXISTS (
  SELECT 1 FROM conversion_children AS link JOIN conversions AS child
    ON child.digest = link.child AND child.profile = link.profile
  WHERE link.parent = conversions.digest AND link.profile = conversions.profile
    AND child.state IN ('queued', 'running'))`;

/** Queued, and nothing is known against it. */
const UNTRIED = `state = 'queued', error = NULL, error_code = NULL, attempts = 0, interruptions = 0,
  next_attempt_ms = NULL`;

const FAILED = `state = 'failed', error = @message, error_code = @code, attempts = attempts + 1,
  next_attempt_ms = @nextAttemptMs, policy = @policy, priority = ${RETRY_PRIORITY}, updated_at_ms = @nowMs`;

function prepareStatements(database: Database) {
  const set = (assignments: string) =>
    `UPDATE conversions SET ${assignments}, updated_at_ms = ? WHERE digest = ? AND profile = ?`;
  return {
    enqueue: database.prepare<[ConversionRequest & { nowMs: number }]>(
      `INSERT INTO conversions (digest, profile, kind, state, priority, not_before_ms, upstream, repository,
         platform, policy, created_at_ms, updated_at_ms)
       VALUES (@digest, @profile, @kind, 'queued', @priority, @notBeforeMs, @upstream, @repository, @platform,
         @policy, @nowMs, @nowMs)
       ON CONFLICT DO UPDATE SET
         ${UNTRIED},
         priority = max(priority, excluded.priority),
         not_before_ms = CASE state WHEN 'failed' THEN excluded.not_before_ms
           ELSE min(not_before_ms, excluded.not_before_ms) END,
         platform = coalesce(platform, excluded.platform),
         upstream = CASE state WHEN 'failed' THEN excluded.upstream ELSE upstream END,
         repository = CASE state WHEN 'failed' THEN excluded.repository ELSE repository END,
         updated_at_ms = @nowMs
       WHERE (state = 'failed' AND next_attempt_ms IS NULL AND policy <> @policy)
         OR (state = 'queued' AND (priority < excluded.priority OR not_before_ms > excluded.not_before_ms))`,
    ),
    addChild: database.prepare<[string, string, string]>(
      'INSERT INTO conversion_children (parent, profile, child) VALUES (?, ?, ?) ON CONFLICT DO NOTHING',
    ),
    children: database.prepare<[string, string], Row>(
      `SELECT ${COLUMNS} FROM conversions WHERE (digest, profile) IN (
         SELECT child, profile FROM conversion_children WHERE parent = ? AND profile = ?)`,
    ),
    takeNext: database.prepare<[{ profile: string; nowMs: number }], Row>(
      `UPDATE conversions SET state = 'running', updated_at_ms = @nowMs WHERE (digest, profile) = (
         SELECT digest, profile FROM conversions
         WHERE profile = @profile AND state IN ('queued', 'failed') AND ${START} <= @nowMs AND ${IMAGES_DONE}
         ORDER BY priority DESC, created_at_ms, digest LIMIT 1)
       RETURNING ${COLUMNS}`,
    ),
    nextStart: database.prepare<[string], { notBeforeMs: number | null }>(
      `SELECT min(${START}) AS notBeforeMs FROM conversions
       WHERE profile = ? AND state IN ('queued', 'failed') AND ${IMAGES_DONE}`,
    ),
    progress: database.prepare<[ConversionProgress & { digest: string; profile: string; nowMs: number }]>(
      `UPDATE conversions SET layers_done = @layersDone, layers_total = @layersTotal, bytes_done = @bytesDone,
         bytes_total = @bytesTotal, updated_at_ms = @nowMs WHERE digest = @digest AND profile = @profile`,
    ),
    done: database.prepare<[string, string, number, number, string, string]>(
      set(
        `${UNTRIED}, state = 'done', converted_digest = ?, converted_media_type = ?, converted_size_bytes = ?`,
      ),
    ),
    failed: database.prepare<[ConversionFailure & { digest: string; profile: string; nowMs: number }]>(
      `UPDATE conversions SET ${FAILED} WHERE digest = @digest AND profile = @profile`,
    ),
    retry: database.prepare<[{ digest: string; profile: string; priority: number; nowMs: number }]>(
      `UPDATE conversions SET ${UNTRIED}, priority = max(priority, @priority), not_before_ms = @nowMs,
         updated_at_ms = @nowMs
       WHERE profile = @profile AND state = 'failed' AND (digest = @digest OR digest IN (
         SELECT child FROM conversion_children WHERE parent = @digest AND profile = @profile))`,
    ),
    requeue: database.prepare<[number, string, string]>(set(`state = 'queued'`)),
    requeueParents: database.prepare<[{ digest: string; profile: string; nowMs: number }]>(
      `UPDATE conversions SET ${UNTRIED}, not_before_ms = @nowMs, updated_at_ms = @nowMs
       WHERE profile = @profile AND state IN ('done', 'failed') AND digest IN (
         SELECT parent FROM conversion_children WHERE child = @digest AND profile = @profile)`,
    ),
    requeueRunning: database.prepare<[number]>(
      `UPDATE conversions SET state = 'queued', updated_at_ms = ? WHERE state = 'running'`,
    ),
    countInterruption: database.prepare(
      `UPDATE conversions SET interruptions = interruptions + 1 WHERE state = 'running'`,
    ),
    failInterrupted: database.prepare<[ConversionFailure & { after: number; nowMs: number }]>(
      `UPDATE conversions SET ${FAILED} WHERE state = 'running' AND interruptions >= @after`,
    ),
    get: database.prepare<[string, string], Row>(
      `SELECT ${COLUMNS} FROM conversions WHERE digest = ? AND profile = ?`,
    ),
    list: database.prepare<[], Row>(`SELECT ${COLUMNS} FROM conversions ORDER BY created_at_ms DESC, digest`),
  };
}
