import { LRUCache } from 'lru-cache';
import type { Logger } from 'pino';
import type { ByteSource } from '../../format/byte-source.ts';
import { unlessAborted } from '../../format/unless-aborted.ts';
import type { Digest } from '../../oci/digest.ts';
import { discard } from '../../oci/registry-http.ts';
import type { BlobDownload } from '../../oci/registry-requests.ts';
import { ResumedBody } from '../../oci/resumed-body.ts';
import type { BlobStore, LocalFile } from '../../store/blob-store.ts';
import type { Catalog, RepositoryName } from '../../store/catalog.ts';
import { isStoreFailure, StoreError } from '../../store/errors.ts';
import type { NegativeAnswers } from '../upstream/negative-answers.ts';
import { isSameRepository, type Target } from '../upstream/upstreams.ts';
import { Download, type DownloadReader } from './download.ts';
import { tryToKeep, tryToRead } from './keep.ts';
import { PassedBlob, type Verification } from './passed-blob.ts';

/** A blob that is kept, or one on its way. */
export type FoundBlob =
  | { readonly kind: 'stored'; readonly source: ByteSource }
  | { readonly kind: 'download'; readonly download: Download; readonly reader: DownloadReader }
  /** Not kept, and it could not be kept a moment ago, mostly for want of room: see {@link Blobs.passer}. */
  | { readonly kind: 'no-room' };

/** Gets a blob from upstream for one reader, keeping nothing. */
export interface Passer {
  readonly digest: Digest;
  /** Of the whole blob, asked of upstream. */
  sizeBytes(): Promise<number>;
  /** The caller closes it. Rejects with RegistryError. */
  begin(part: {
    readonly start: number;
    /** The blob's if left out. */
    readonly end?: number;
    readonly verification: Verification | null;
  }): Promise<PassedBlob>;
}

/** So long, a blob that could not be kept is not tried to be kept again. */
const NO_ROOM_MS = 5_000;
const MAX_NO_ROOM = 10_000;

interface Running {
  readonly digest: Digest;
  readonly download: Download;
  /** For whom it was begun. */
  readonly where: RepositoryName;
}

/** A download as operators see it. */
export interface RunningDownload extends RepositoryName {
  readonly digest: Digest;
  readonly arrivedBytes: number;
  /** Null before upstream answers. */
  readonly totalBytes: number | null;
}

/**
 * Blobs by digest, downloaded when they are first asked for: once from an upstream, however many ask. A repository is given only
 * what it has, by what its manifests name or its upstream says.
 */
export class Blobs {
  readonly #store: BlobStore;
  readonly #catalog: Catalog;
  readonly #log: Logger;
  readonly #signal: AbortSignal;
  readonly #negatives: NegativeAnswers;
  readonly #onNotKept: (failure: StoreError, wantedBytes: number) => void;
  /** By upstream and digest: what one sends slowly, or wrong, is no reason for others' readers to wait for it. */
  readonly #downloads = new Map<string, Running>();
  readonly #hidesOthers: boolean;
  readonly #noRoom = new LRUCache<Digest, true>({ max: MAX_NO_ROOM, ttl: NO_ROOM_MS });

  /**
   * @param parts.hidesOthers whether no answer may tell what only other repositories have: where rights differ
   * @param parts.onNotKept told why a blob could not be kept, and how large it is
   * @param parts.signal ends the downloads: they belong to no single reader
   */
  constructor(parts: {
    store: BlobStore;
    catalog: Catalog;
    negatives: NegativeAnswers;
    hidesOthers: boolean;
    onNotKept: (failure: StoreError, wantedBytes: number) => void;
    log: Logger;
    signal: AbortSignal;
  }) {
    this.#negatives = parts.negatives;
    this.#onNotKept = parts.onNotKept;
    this.#store = parts.store;
    this.#catalog = parts.catalog;
    this.#hidesOthers = parts.hidesOthers;
    this.#log = parts.log;
    this.#signal = parts.signal;
  }

  /**
   * The caller closes a stored blob's source, or leaves a download. Rejects with RegistryError, StoreError or
   * the signal's reason.
   */
  async find(target: Target, digest: Digest, signal: AbortSignal): Promise<FoundBlob> {
    const key = downloadKey(target, digest);
    const before = this.#downloads.get(key);
    const source = await tryToRead(this.#log, () => this.#store.open(digest));
    const running = this.#downloads.get(key);
    // It ended while the store was looking for what was not there yet.
    if (source === null && running === undefined && before !== undefined) {
      return this.find(target, digest, signal);
    }
    // One that is begun for this repository needs no permission: upstream will answer for it.
    if (source === null && running === undefined) {
      this.#negatives.check(target, `blob ${digest}`);
      return this.#noRoom.has(digest) ? { kind: 'no-room' } : this.#join(this.#begin(target, digest));
    }
    const found: FoundBlob = source === null ? this.#join(running!.download) : { kind: 'stored', source };
    try {
      const isOurs = running !== undefined && isSameRepository(running.where, target.where);
      if (!isOurs && !(await this.#catalog.isLinked(target.where, digest))) {
        if (this.#hidesOthers) await this.#tryUpstream(target, digest, signal);
        else await this.#askUpstream(target, digest, signal);
      }
      if (isOurs || found.kind !== 'download' || (await begins(found.download, signal))) return found;
    } catch (error) {
      await leave(found);
      throw error;
    }
    // That another repository does not get it says nothing about this one.
    await leave(found);
    return this.find(target, digest, signal);
  }

  /** A stored, verified blob, which the caller closes; null if it is not kept. It is not downloaded for this. */
  async kept(target: Target, digest: Digest, signal: AbortSignal): Promise<ByteSource | null> {
    const isKept = async () => (await tryToRead(this.#log, () => this.#store.stat(digest))) !== null;
    if (!this.#hidesOthers && !(await isKept())) return null;
    if (!(await this.#catalog.isLinked(target.where, digest))) {
      if (this.#hidesOthers) await this.#tryUpstream(target, digest, signal);
      else await this.#askUpstream(target, digest, signal);
    }
    return tryToRead(this.#log, () => this.#store.open(digest));
  }

  /** Bytes of the blob, without downloading it. */
  async sizeBytes(target: Target, digest: Digest, signal: AbortSignal): Promise<number> {
    if (await this.#catalog.isLinked(target.where, digest)) {
      const stored = await tryToRead(this.#log, () => this.#store.stat(digest));
      if (stored !== null) return stored.sizeBytes;
    }
    const running = this.#downloads.get(downloadKey(target, digest));
    if (running !== undefined && isSameRepository(running.where, target.where)) {
      // Upstream answers for it there.
      const announced = running.download.sizeBytes.catch(() => null);
      const sizeBytes = await unlessAborted(announced, signal);
      if (sizeBytes !== null) return sizeBytes;
    }
    return this.#askUpstream(target, digest, signal);
  }

  /** A stored, verified blob, waiting for its download if need be. The caller closes it. */
  async whole(target: Target, digest: Digest, signal: AbortSignal): Promise<ByteSource> {
    const found = await this.find(target, digest, signal);
    if (found.kind === 'stored') return found.source;
    if (found.kind === 'no-room') throw new StoreError('ERR_STORE_FULL', `${digest} cannot be kept`);
    found.reader.leave();
    await unlessAborted(found.download.finished, signal);
    // A store that cannot be read now says so: to download it again would change nothing.
    return (await this.#store.open(digest)) ?? this.whole(target, digest, signal);
  }

  /** A local file with the blob's bytes, verified, waiting for its download if need be. The caller closes it. */
  async localFile(target: Target, digest: Digest, signal: AbortSignal): Promise<LocalFile> {
    // Held, so that it is not removed between the two.
    const source = await this.whole(target, digest, signal);
    try {
      const file = await this.#store.localFile(digest);
      if (file !== null) return file;
    } finally {
      await source.close();
    }
    return this.localFile(target, digest, signal);
  }

  /** What is on its way, the oldest first. */
  running(): RunningDownload[] {
    const downloads = [...this.#downloads.values()];
    return downloads.map(({ digest, download, where }) => ({ digest, ...where, ...download.progress }));
  }

  /** For one reader whose signal ends what is asked. Upstream answers for the repository's right to it. */
  passer({ where, client }: Target, digest: Digest, signal: AbortSignal): Passer {
    const { repository } = where;
    const context = { host: client.host, repository, reference: digest };
    const ends = AbortSignal.any([signal, this.#signal]);
    let size: Promise<number> | null = null;
    return {
      digest,
      sizeBytes: () => {
        size ??= client.statBlob(repository, digest, { signal: ends }).then(({ sizeBytes }) => sizeBytes);
        return size;
      },
      begin: async ({ verification, ...wanted }) => {
        const { end } = wanted;
        const fetch = (offset: number, until: AbortSignal) => {
          const length = end === undefined ? undefined : end - offset;
          return client.blob(repository, digest, { offset, length, signal: until });
        };
        const body = await ResumedBody.begin(wanted, fetch, context, ends);
        return new PassedBlob(body, wanted.start, verification, context);
      },
    };
  }

  /** Waits for the downloads that its signal has ended. */
  async close(): Promise<void> {
    await Promise.allSettled([...this.#downloads.values()].map(({ download }) => download.finished));
  }

  #join(download: Download): FoundBlob {
    return { kind: 'download', download, reader: download.join() };
  }

  #begin(target: Target, digest: Digest): Download {
    const { where, client } = target;
    const { repository } = where;
    const context = { host: client.host, repository, reference: digest };
    const sources: BlobDownload[] = [];
    const fetch = async (offset: number, signal: AbortSignal) => {
      const source = await client.blob(repository, digest, { offset, signal });
      sources.push(source);
      return source;
    };
    const download = new Download(digest, this.#store, context, fetch, this.#signal);
    download.finished.catch((error: unknown) => {
      if (isLie(error)) for (const source of sources) source.distrust();
    });
    const key = downloadKey(target, digest);
    this.#downloads.set(key, { digest, download, where });
    const forget = () => this.#downloads.delete(key);
    download.finished.then(forget, (error: unknown) => {
      forget();
      this.#negatives.failed(target, `blob ${digest}`, error);
      if (!isStoreFailure(error)) return;
      this.#noRoom.set(digest, true);
      this.#log.warn({ err: error, digest, ...where }, 'a blob cannot be kept: it is passed through');
      this.#onNotKept(error, download.progress.totalBytes ?? 0);
    });
    // Upstream answers for it.
    download.sizeBytes.then(
      () => this.#link(where, digest),
      () => {},
    );
    return download;
  }

  /** Whether upstream has the blob in that repository, and how large it is. */
  async #askUpstream(target: Target, digest: Digest, signal: AbortSignal): Promise<number> {
    const { where, client } = target;
    const { sizeBytes } = await this.#negatives.ask(target, `blob ${digest}`, () =>
      client.statBlob(where.repository, digest, { signal }),
    );
    await this.#link(where, digest);
    return sizeBytes;
  }

  /** The same, asked as a download asks: so a refusal is the same to the letter. */
  async #tryUpstream(target: Target, digest: Digest, signal: AbortSignal): Promise<void> {
    const { where, client } = target;
    const { body } = await this.#negatives.ask(target, `blob ${digest}`, () =>
      client.blob(where.repository, digest, { signal }),
    );
    discard(body);
    await this.#link(where, digest);
  }

  #link(where: RepositoryName, digest: Digest): Promise<void> {
    return tryToKeep(this.#log, () => this.#catalog.link(where, digest));
  }
}

function downloadKey({ where }: Target, digest: Digest): string {
  return `${where.upstream} ${digest}`;
}

/** Gives back what {@link Blobs.find} found. */
export async function leave(found: FoundBlob): Promise<void> {
  if (found.kind === 'stored') await found.source.close();
  else if (found.kind === 'download') found.reader.leave();
}

/** Whether what came is not the blob that was asked for. */
function isLie(error: unknown): boolean {
  if (!(error instanceof StoreError)) return false;
  return error.code === 'ERR_STORE_DIGEST' || error.code === 'ERR_STORE_SIZE';
}

/** Whether upstream sends it: resolves when it answers. */
function begins(download: Download, signal: AbortSignal): Promise<boolean> {
  const answered = download.sizeBytes.then(
    () => true,
    () => false,
  );
  return unlessAborted(answered, signal);
}
