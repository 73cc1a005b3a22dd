import { createReadStream } from 'node:fs';
import type { Readable } from 'node:stream';
import { setTimeout as delay } from 'node:timers/promises';
import {
  AbortMultipartUploadCommand,
  DeleteObjectCommand,
  GetObjectCommand,
  HeadBucketCommand,
  HeadObjectCommand,
  ListMultipartUploadsCommand,
  ListObjectsV2Command,
  PutObjectCommand,
  S3Client,
  S3ServiceException,
} from '@aws-sdk/client-s3';
import { Upload } from '@aws-sdk/lib-storage';
import pLimit, { type LimitFunction } from 'p-limit';
import { StoreError } from './errors.ts';

/** Where objects are kept, and as whom to ask for them. */
export interface S3Location {
  readonly bucket: string;
  /** In front of all keys; empty, or ends with a slash. */
  readonly prefix: string;
  /** Of a server that is not Amazon's. */
  readonly endpoint?: string | undefined;
  readonly region: string;
  /** The bucket in the path instead of the host name. */
  readonly pathStyle: boolean;
  /** Otherwise those that the SDK finds: environment, shared files, container or instance role. */
  readonly credentials?: S3Credentials | undefined;
}

export interface S3Credentials {
  readonly accessKeyId: string;
  readonly secretAccessKey: string;
  readonly sessionToken?: string | undefined;
}

export interface S3Object {
  readonly key: string;
  readonly sizeBytes: number;
  readonly modifiedAtMs: number;
}

const CONNECT_TIMEOUT_MS = 5_000;
/** Without a byte, in either direction. */
const IDLE_TIMEOUT_MS = 30_000;
/** Of a look-up or a read until its answer begins, all attempts together: somebody's pull waits for it. */
const ANSWER_MS = 5_000;
/** A bucket that did not answer is not looked into again for so long: each look would make a pull wait. */
const SILENCE_MS = 10_000;
const MAX_ATTEMPTS = 4;
const MAX_SOCKETS = 128;
/** Larger objects are sent in parts: a failure costs a part, and four are under way at once. */
const PART_BYTES = 16 * 1024 * 1024;
const MAX_PARTS = 10_000;
/** Files that are sent at once, those of several parts and others: what is being sent is in memory. */
const LARGE_AT_ONCE = 4;
const SMALL_AT_ONCE = 16;
const RETRY_DELAY_MS = 200;
const NOT_FOR_US = new Set([400, 403, 405, 501]);
const FULL = new Set(['InsufficientStorage', 'XMinioStorageFull', 'QuotaExceeded']);

/** Objects of one bucket under one prefix, by keys without it. All methods reject with StoreError. */
export class S3Objects {
  readonly #client: S3Client;
  readonly #location: S3Location;
  readonly #large: LimitFunction = pLimit(LARGE_AT_ONCE);
  readonly #small: LimitFunction = pLimit(SMALL_AT_ONCE);
  /** On the clock of `performance.now()`. */
  #silentUntilMs = 0;

  constructor(location: S3Location) {
    const { endpoint, credentials } = location;
    this.#location = location;
    this.#client = new S3Client({
      region: location.region,
      forcePathStyle: location.pathStyle,
      ...(endpoint !== undefined && { endpoint }),
      ...(credentials !== undefined && { credentials: identity(credentials) }),
      maxAttempts: MAX_ATTEMPTS,
      // Every blob has its digest; servers that do not know the SDK's trailing checksums store them with the bytes.
      requestChecksumCalculation: 'WHEN_REQUIRED',
      responseChecksumValidation: 'WHEN_REQUIRED',
      requestHandler: {
        connectionTimeout: CONNECT_TIMEOUT_MS,
        socketTimeout: IDLE_TIMEOUT_MS,
        socketAcquisitionWarningTimeout: IDLE_TIMEOUT_MS,
        httpAgent: { keepAlive: true, maxSockets: MAX_SOCKETS },
        httpsAgent: { keepAlive: true, maxSockets: MAX_SOCKETS },
      },
    });
  }

  /** Rejects if the bucket cannot be used. */
  async check(): Promise<void> {
    const { bucket } = this.#location;
    try {
      await this.#client.send(new HeadBucketCommand({ Bucket: bucket }));
    } catch (cause) {
      throw this.#failed('cannot use it', cause);
    }
  }

  /** Null if there is no such object. */
  async head(key: string): Promise<S3Object | null> {
    try {
      const command = new HeadObjectCommand(this.#named(key));
      const found = await this.#answered((abortSignal) => this.#client.send(command, { abortSignal }));
      return {
        key,
        sizeBytes: found.ContentLength ?? 0,
        modifiedAtMs: found.LastModified?.getTime() ?? 0,
      };
    } catch (cause) {
      if (isMissing(cause)) return null;
      throw this.#failed(`cannot look up ${key}`, cause);
    }
  }

  /**
   * The object's bytes from `start` up to, not including, `end`. Null if there is no such object, or it
   * ends before. The stream fails if
   * the connection breaks or nothing comes for long; it is for the caller to read to its end or destroy.
   */
  async stream(key: string, start: number, end: number, signal?: AbortSignal): Promise<Readable | null> {
    const range = `bytes=${start}-${end - 1}`;
    try {
      const command = new GetObjectCommand({ ...this.#named(key), Range: range });
      const { Body, ContentRange } = await this.#answered(
        (abortSignal) => this.#client.send(command, { abortSignal }),
        signal,
      );
      const stream = Body as Readable;
      if (start === 0 || ContentRange?.startsWith(`bytes ${start}-`)) return stream;
      stream.destroy();
      throw new Error(`asked for ${range} the server sent ${ContentRange ?? 'all'}`);
    } catch (cause) {
      signal?.throwIfAborted();
      const isShorter = cause instanceof S3ServiceException && cause.$metadata.httpStatusCode === 416;
      if (isShorter || isMissing(cause)) return null;
      throw this.#failed(`cannot read ${key}`, cause);
    }
  }

  /** Bytes from `start` to `end`, whole, with retries when the connection breaks. Null if there is no such object. */
  async range(key: string, start: number, end: number, signal?: AbortSignal): Promise<Buffer | null> {
    for (let attempt = 1; ; attempt++) {
      const stream = await this.stream(key, start, end, signal);
      if (stream === null) return null;
      try {
        return await collect(stream, end - start, signal);
      } catch (cause) {
        signal?.throwIfAborted();
        if (attempt === MAX_ATTEMPTS) throw this.#failed(`cannot read ${key}`, cause);
      }
      await delay(RETRY_DELAY_MS * 2 ** attempt, undefined, signal === undefined ? {} : { signal });
    }
  }

  async put(key: string, bytes: Buffer): Promise<void> {
    try {
      await this.#client.send(new PutObjectCommand({ ...this.#named(key), Body: bytes }));
    } catch (cause) {
      throw this.#failed(`cannot write ${key}`, cause);
    }
  }

  /** Sends a file, when its turn comes. The object is there when all of it is. */
  upload(key: string, path: string, sizeBytes: number): Promise<void> {
    if (sizeBytes === 0) return this.put(key, Buffer.alloc(0));
    const limit = sizeBytes > PART_BYTES ? this.#large : this.#small;
    return limit(() => this.#upload(key, path, sizeBytes));
  }

  async #upload(key: string, path: string, sizeBytes: number): Promise<void> {
    const partSize = Math.max(PART_BYTES, Math.ceil(sizeBytes / MAX_PARTS));
    const body = createReadStream(path, { highWaterMark: 1024 * 1024 });
    try {
      const params = { ...this.#named(key), Body: body, ContentLength: sizeBytes };
      await new Upload({ client: this.#client, partSize, params }).done();
    } catch (cause) {
      throw this.#failed(`cannot write ${key}`, cause);
    } finally {
      body.destroy();
    }
  }

  /** Also if it is not there. */
  async remove(key: string): Promise<void> {
    try {
      await this.#client.send(new DeleteObjectCommand(this.#named(key)));
    } catch (cause) {
      if (!isMissing(cause)) throw this.#failed(`cannot remove ${key}`, cause);
    }
  }

  async *list(below: string): AsyncIterable<S3Object> {
    const { bucket, prefix } = this.#location;
    let token: string | undefined;
    do {
      const page = { Bucket: bucket, Prefix: `${prefix}${below}`, ContinuationToken: token };
      const { Contents, NextContinuationToken } = await this.#client
        .send(new ListObjectsV2Command(page))
        .catch((cause: unknown) => {
          throw this.#failed(`cannot list ${below}`, cause);
        });
      for (const { Key = '', Size = 0, LastModified } of Contents ?? []) {
        const modifiedAtMs = LastModified?.getTime() ?? 0;
        yield { key: Key.slice(prefix.length), sizeBytes: Size, modifiedAtMs };
      }
      token = NextContinuationToken;
    } while (token !== undefined);
  }

  /** Drops what uploads that began before `beforeMs` and never ended have left; some servers cannot. */
  async dropUploads(beforeMs: number): Promise<void> {
    const { bucket, prefix } = this.#location;
    try {
      const found = await this.#client.send(
        new ListMultipartUploadsCommand({ Bucket: bucket, Prefix: prefix }),
      );
      for (const { Key, UploadId, Initiated } of found.Uploads ?? []) {
        if (Initiated === undefined || Initiated.getTime() >= beforeMs) continue;
        await this.#client.send(new AbortMultipartUploadCommand({ Bucket: bucket, Key, UploadId }));
      }
    } catch (cause) {
      // Not known to the server, or not allowed: then it is the bucket's owner who cleans up.
      if (cause instanceof S3ServiceException && NOT_FOR_US.has(cause.$metadata.httpStatusCode ?? 0)) return;
      throw this.#failed('cannot drop unfinished uploads', cause);
    }
  }

  close(): void {
    this.#client.destroy();
  }

  /** What `ask` gets, if that begins soon, and the bucket was not silent a moment ago. */
  async #answered<T>(ask: (abort: AbortSignal) => Promise<T>, signal?: AbortSignal): Promise<T> {
    if (performance.now() < this.#silentUntilMs) throw new Error('it did not answer a moment ago');
    const patience = new AbortController();
    const giveUp = () => patience.abort();
    const timer = setTimeout(giveUp, ANSWER_MS);
    signal?.addEventListener('abort', giveUp, { once: true });
    try {
      return await ask(patience.signal);
    } catch (cause) {
      if (!patience.signal.aborted || signal?.aborted === true) throw cause;
      this.#silentUntilMs = performance.now() + SILENCE_MS;
      throw new Error(`it did not answer within ${ANSWER_MS} ms`, { cause });
    } finally {
      clearTimeout(timer);
      signal?.removeEventListener('abort', giveUp);
    }
  }

  #named(key: string): { Bucket: string; Key: string } {
    const { bucket, prefix } = this.#location;
    return { Bucket: bucket, Key: `${prefix}${key}` };
  }

  #failed(doing: string, cause: unknown): StoreError {
    if (cause instanceof StoreError) return cause;
    const { bucket, endpoint, region } = this.#location;
    const where = `bucket ${bucket} at ${endpoint ?? `Amazon S3, region ${region}`}`;
    const reason = cause instanceof Error ? `${cause.name}: ${cause.message}` : String(cause);
    const isFull = cause instanceof Error && FULL.has(cause.name);
    const message = `${where}: ${doing} (${reason}); ${remedy(cause)}`;
    return new StoreError(isFull ? 'ERR_STORE_BUCKET_FULL' : 'ERR_STORE_IO', message, { cause });
  }
}

function identity({ accessKeyId, secretAccessKey, sessionToken }: S3Credentials) {
  return { accessKeyId, secretAccessKey, ...(sessionToken !== undefined && { sessionToken }) };
}

function isMissing(error: unknown): boolean {
  if (!(error instanceof S3ServiceException) || error.name === 'NoSuchBucket') return false;
  return error.name === 'NoSuchKey' || error.name === 'NotFound';
}

function remedy(cause: unknown): string {
  if (!(cause instanceof S3ServiceException))
    return 'check storage.endpoint and that it can be reached from here';
  const status = cause.$metadata.httpStatusCode ?? 0;
  if (FULL.has(cause.name)) return 'make room there';
  if (cause.name === 'NoSuchBucket' || status === 404) return 'create the bucket, or correct storage.bucket';
  if (status === 301 || status === 400) return 'check storage.region, storage.endpoint and storage.pathStyle';
  if (status === 401 || status === 403) {
    return 'check storage.credentials; they need to get, put, delete and list objects and to abort uploads';
  }
  return 'look into the logs of the server';
}

async function collect(stream: Readable, lengthBytes: number, signal?: AbortSignal): Promise<Buffer> {
  const bytes = Buffer.allocUnsafe(lengthBytes);
  let filled = 0;
  const stop = () => stream.destroy(signal?.reason);
  signal?.addEventListener('abort', stop, { once: true });
  try {
    for await (const piece of stream as AsyncIterable<Buffer>) {
      if (filled + piece.length > lengthBytes) throw new Error('more bytes came than were asked for');
      piece.copy(bytes, filled);
      filled += piece.length;
    }
    if (filled < lengthBytes) throw new Error(`${filled} bytes came, ${lengthBytes} were asked for`);
    return bytes;
  } finally {
    signal?.removeEventListener('abort', stop);
  }
}
