import type { Database } from 'better-sqlite3';
import type { Digest } from '../oci/digest.ts';

export type ConversionState = 'queued' | 'running' | 'done' | 'failed';

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
}

export interface ConversionRecord extends ConversionRequest {
  readonly state: ConversionState;
  readonly progress: ConversionProgress;
  readonly converted: ConvertedManifest | null;
  readonly error: string | null;
  readonly createdAtMs: number;
  readonly updatedAtMs: number;
}

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
   * and a failed one is queued again once its `notBeforeMs` is past, to be fetched from where it was asked for now.
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

  /** Remembers why; it is not queued again before `retryAtMs`. */
  setFailed(digest: Digest, profile: string, error: string, retryAtMs: number, nowMs: number): void {
    this.#statements.failed.run(error, retryAtMs, nowMs, digest, profile);
  }

  /** Gives back one that was taken but not finished. */
  requeue(digest: Digest, profile: string, nowMs: number): void {
    this.#statements.requeue.run(nowMs, digest, profile);
  }

  /** After a start: what an earlier process was at when it ended is queued again. */
  requeueRunning(nowMs: number): void {
    this.#statements.requeueRunning.run(nowMs);
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
  bytes_done AS bytesDone, bytes_total AS bytesTotal, created_at_ms AS createdAtMs,
  updated_at_ms AS updatedAtMs`;

const READY = `state = 'queued' AND NOT EXISTS (
  SELECT 1 FROM conversion_children AS link JOIN conversions AS child
    ON child.digest = link.child AND child.profile = link.profile
  WHERE link.parent = conversions.digest AND link.profile = conversions.profile
    AND child.state IN ('queued', 'running'))`;

function prepareStatements(database: Database) {
  const set = (assignments: string) =>
    `UPDATE conversions SET ${assignments}, updated_at_ms = ? WHERE digest = ? AND profile = ?`;
  return {
    enqueue: database.prepare<[ConversionRequest & { nowMs: number }]>(
      `INSERT INTO conversions (digest, profile, kind, state, priority, not_before_ms, upstream, repository,
         platform, created_at_ms, updated_at_ms)
       VALUES (@digest, @profile, @kind, 'queued', @priority, @notBeforeMs, @upstream, @repository, @platform,
         @nowMs, @nowMs)
       ON CONFLICT DO UPDATE SET
         state = 'queued',
         error = NULL,
         priority = max(priority, excluded.priority),
         not_before_ms = CASE state WHEN 'failed' THEN excluded.not_before_ms
           ELSE min(not_before_ms, excluded.not_before_ms) END,
         platform = coalesce(platform, excluded.platform),
         upstream = CASE state WHEN 'failed' THEN excluded.upstream ELSE upstream END,
         repository = CASE state WHEN 'failed' THEN excluded.repository ELSE repository END,
         updated_at_ms = @nowMs
       WHERE (state = 'failed' AND not_before_ms <= @nowMs)
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
         WHERE profile = @profile AND ${READY} AND not_before_ms <= @nowMs
         ORDER BY priority DESC, created_at_ms, digest LIMIT 1)
       RETURNING ${COLUMNS}`,
    ),
    nextStart: database.prepare<[string], { notBeforeMs: number | null }>(
      `SELECT min(not_before_ms) AS notBeforeMs FROM conversions WHERE profile = ? AND ${READY}`,
    ),
    progress: database.prepare<[ConversionProgress & { digest: string; profile: string; nowMs: number }]>(
      `UPDATE conversions SET layers_done = @layersDone, layers_total = @layersTotal, bytes_done = @bytesDone,
         bytes_total = @bytesTotal, updated_at_ms = @nowMs WHERE digest = @digest AND profile = @profile`,
    ),
    done: database.prepare<[string, string, number, number, string, string]>(
      set(
        `state = 'done', error = NULL, converted_digest = ?, converted_media_type = ?, converted_size_bytes = ?`,
      ),
    ),
    failed: database.prepare<[string, number, number, string, string]>(
      set(`state = 'failed', error = ?, not_before_ms = ?`),
    ),
    requeue: database.prepare<[number, string, string]>(set(`state = 'queued'`)),
    requeueParents: database.prepare<[{ digest: string; profile: string; nowMs: number }]>(
      `UPDATE conversions SET state = 'queued', error = NULL, not_before_ms = @nowMs, updated_at_ms = @nowMs
       WHERE profile = @profile AND state IN ('done', 'failed') AND digest IN (
         SELECT parent FROM conversion_children WHERE child = @digest AND profile = @profile)`,
    ),
    requeueRunning: database.prepare<[number]>(
      `UPDATE conversions SET state = 'queued', updated_at_ms = ? WHERE state = 'running'`,
    ),
    get: database.prepare<[string, string], Row>(
      `SELECT ${COLUMNS} FROM conversions WHERE digest = ? AND profile = ?`,
    ),
    list: database.prepare<[], Row>(`SELECT ${COLUMNS} FROM conversions ORDER BY created_at_ms DESC, digest`),
  };
}
