import { type ByteSource, SourceError } from '../format/byte-source.ts';
import {
  type ChunkTable,
  DEFAULT_CHUNK_BYTES,
  decodeChunkTable,
  encodeChunkTable,
} from '../format/chunk-table.ts';
import { type Digest, Digester, digestAlgorithm, digestHex, digestOf, isDigest } from '../oci/digest.ts';
import { BlobHolds } from './blob-holds.ts';
import type {
  BlobStore,
  BlobWriter,
  ExpectedBlob,
  HeldBlob,
  ListedBlob,
  LocalFile,
  StoredBlob,
} from './blob-store.ts';
import { DirectoryBlobStore, type DirectoryOptions } from './directory-blob-store.ts';
import { StoreError } from './errors.ts';
import { chunkDigests } from './fs-calls.ts';
import { HeldSource } from './held-source.ts';
import { LocalCopies } from './local-copies.ts';
import { S3BlobWriter } from './s3-blob-writer.ts';
import { S3Fill } from './s3-fill.ts';
import { type S3Location, S3Objects } from './s3-objects.ts';
import { S3RemoteBlob } from './s3-remote-blob.ts';

export interface S3Options extends DirectoryOptions {
  /** What local copies may take; more while they are in use. */
  readonly cacheBytes: number;
}

/** Other processes may still be at what began later. */
const UNFINISHED_AFTER_MS = 24 * 60 * 60 * 1000;
const VERIFY_STEP_BYTES = 8 * 1024 * 1024;

/**
 * Blobs as objects of an S3 bucket, which many processes may share: `blobs/sha256/ab/abcd…`, and beside each of more
 * than one chunk `tables/sha256/ab/abcd…`, by which each chunk of it can be verified. Copies of what is in use are kept
 * in a local directory of this process alone. What is held here may be removed by another process: what is copied
 * already can be read on, other reads fail.
 */
export class S3BlobStore implements BlobStore {
  readonly #objects: S3Objects;
  readonly #local: DirectoryBlobStore;
  readonly #copies: LocalCopies;
  readonly #holds = new BlobHolds();
  readonly #remotes = new Map<Digest, Promise<S3RemoteBlob | null>>();
  readonly #uploads = new Map<Digest, Promise<void>>();
  readonly #stop = new AbortController();

  private constructor(objects: S3Objects, local: DirectoryBlobStore, copies: LocalCopies) {
    this.#objects = objects;
    this.#local = local;
    this.#copies = copies;
  }

  /**
   * @param directory for local copies and what is not finished; of this process alone
   * @throws StoreError ERR_STORE_LOCKED, ERR_STORE_IO if the bucket cannot be used
   */
  static async open(directory: string, location: S3Location, options: S3Options): Promise<S3BlobStore> {
    const local = await DirectoryBlobStore.open(directory, options);
    const objects = new S3Objects(location);
    try {
      await objects.check();
      await objects.dropUploads(Date.now() - UNFINISHED_AFTER_MS);
      return new S3BlobStore(objects, local, await LocalCopies.open(local, options.cacheBytes));
    } catch (error) {
      objects.close();
      await local.close();
      throw error;
    }
  }

  /** What S3 says, since others remove blobs too; while it is out of reach, what is here. */
  async stat(digest: Digest): Promise<{ sizeBytes: number } | null> {
    try {
      const found = await this.#objects.head(blobKey(digest));
      return found === null ? null : { sizeBytes: found.sizeBytes };
    } catch (error) {
      const copy = await this.#local.stat(digest);
      if (copy === null) throw error;
      return copy;
    }
  }

  open(digest: Digest): Promise<ByteSource | null> {
    return this.#holds.hold(digest, async (release) => {
      const source = (await this.#openCopy(digest)) ?? (await this.#openRemote(digest));
      const done = () => {
        release();
        this.#trim();
      };
      return source === null ? null : new HeldSource(source, done);
    });
  }

  hold(digest: Digest): Promise<HeldBlob | null> {
    return this.#holds.hold(digest, async (release) => {
      return (await this.stat(digest)) === null ? null : { close: async () => release() };
    });
  }

  localFile(digest: Digest): Promise<LocalFile | null> {
    return this.#holds.hold(digest, async (release) => {
      const file = await this.#copied(digest, () => this.#local.localFile(digest));
      if (file === null) return null;
      const close = async () => {
        await file.close();
        release();
        this.#trim();
      };
      return { path: file.path, close };
    });
  }

  async *list(): AsyncIterable<ListedBlob> {
    for await (const { key, sizeBytes, modifiedAtMs } of this.#objects.list('blobs/')) {
      const [, algorithm, , hex] = key.split('/');
      const digest = `${algorithm}:${hex}`;
      if (isDigest(digest) && key === blobKey(digest)) yield { digest, sizeBytes, modifiedAtMs };
    }
  }

  async writer(expected: ExpectedBlob | null): Promise<BlobWriter> {
    return new S3BlobWriter(await this.#copies.writer(expected), (blob) => this.#keep(blob.digest));
  }

  async adopt(path: string, digest: Digest): Promise<void> {
    await this.#local.adopt(path, digest);
    await this.#keep(digest);
  }

  async put(bytes: Buffer): Promise<Digest> {
    const digest = digestOf(bytes);
    const writer = await this.writer({ digest, sizeBytes: bytes.length });
    await writer.write(bytes);
    await writer.commit();
    return digest;
  }

  remove(digest: Digest): Promise<boolean> {
    return this.#holds.unlessHeld(digest, async () => {
      await (await this.#remotes.get(digest))?.settled();
      const found = await this.#objects.head(blobKey(digest));
      await this.#removeObjects(digest);
      if (await this.#local.remove(digest)) this.#copies.forget(digest);
      return found !== null;
    });
  }

  /** A damaged object is replaced if the copy here is intact. */
  async verify(digest: Digest, signal?: AbortSignal): Promise<'intact' | 'damaged' | 'absent'> {
    signal?.throwIfAborted();
    const here = await this.#local.verify(digest, signal);
    if (here === 'damaged') this.#copies.forget(digest);
    const there = await this.#objects.head(blobKey(digest));
    if (there === null) return 'absent';
    // Once more, since it may have been the network.
    for (let attempt = 0; attempt < 2; attempt++) {
      if ((await this.#hashThere(digest, there.sizeBytes, signal)) === digest) return 'intact';
    }
    await this.#removeObjects(digest);
    if (here !== 'intact') return 'damaged';
    await this.#keep(digest);
    return 'intact';
  }

  scratch(): string {
    return this.#local.scratch();
  }

  /** Gives up what is being copied, and lets another process open the directory. */
  async close(): Promise<void> {
    this.#stop.abort(new StoreError('ERR_STORE_CLOSED', 'the store was closed'));
    for (const remote of await Promise.allSettled(this.#remotes.values())) {
      if (remote.status === 'fulfilled') await remote.value?.settled();
    }
    await Promise.allSettled(this.#uploads.values());
    this.#objects.close();
    await this.#local.close();
  }

  /** What this process has a copy of is served without asking S3. */
  async #openCopy(digest: Digest): Promise<ByteSource | null> {
    const source = await this.#local.open(digest);
    if (source !== null) this.#copies.used(digest, source.size);
    return source;
  }

  async #openRemote(digest: Digest): Promise<ByteSource | null> {
    const remote = await this.#join(digest);
    if (remote === null) return null;
    // Without a table nothing can be verified but all of it.
    if (remote.hasTable) return new RemoteSource(remote);
    try {
      return await this.#copied(digest, () => this.#openCopy(digest));
    } finally {
      remote.leave();
    }
  }

  /** What `open` finds in the local store, once the blob is there. */
  async #copied<T>(digest: Digest, open: () => Promise<T | null>): Promise<T | null> {
    while (true) {
      const copy = await open();
      if (copy !== null) return copy;
      const remote = await this.#join(digest);
      if (remote === null) return null;
      try {
        if (!(await remote.fetched())) continue;
        this.#copies.used(digest, remote.blob.sizeBytes);
        return await open();
      } finally {
        remote.leave();
      }
    }
  }

  async #join(digest: Digest): Promise<S3RemoteBlob | null> {
    while (true) {
      const remote = await (this.#remotes.get(digest) ?? this.#look(digest));
      if (remote === null || remote.join()) return remote;
    }
  }

  #look(digest: Digest): Promise<S3RemoteBlob | null> {
    const forget = () => {
      if (this.#remotes.get(digest) === looking) this.#remotes.delete(digest);
    };
    const looking = this.#remote(digest, forget);
    this.#remotes.set(digest, looking);
    looking.then((remote) => remote ?? forget(), forget);
    return looking;
  }

  async #remote(digest: Digest, forget: () => void): Promise<S3RemoteBlob | null> {
    const key = blobKey(digest);
    const objects = this.#objects;
    const found = await objects.head(key);
    if (found === null) return null;
    const blob = { digest, sizeBytes: found.sizeBytes };
    const table = blob.sizeBytes > DEFAULT_CHUNK_BYTES ? await this.#table(blob) : null;
    const parts = { objects, key, blob, table };
    return new S3RemoteBlob({
      ...parts,
      startFill: () =>
        new S3Fill({ ...parts, local: this.#local, copies: this.#copies, signal: this.#stop.signal }),
      dropDamaged: async () => {
        forget();
        await this.#dropDamaged(blob);
      },
      onUnused: () => {
        forget();
        this.#trim();
      },
    });
  }

  /** What is wrong may be the blob or its table, or was only so on its way here. */
  async #dropDamaged({ digest, sizeBytes }: StoredBlob): Promise<void> {
    await this.#objects.remove(tableKey(digest));
    if ((await this.#hashThere(digest, sizeBytes)) !== digest) await this.#objects.remove(blobKey(digest));
  }

  /** Null if there is none that fits: the blob may be cut short, or the table damaged. */
  async #table({ digest, sizeBytes }: StoredBlob): Promise<ChunkTable | null> {
    const key = tableKey(digest);
    const found = await this.#objects.head(key);
    const bytes = found === null ? null : await this.#objects.range(key, 0, found.sizeBytes);
    if (bytes === null) return null;
    try {
      const table = decodeChunkTable(bytes);
      return table.blobSize === sizeBytes && table.chunkSize === DEFAULT_CHUNK_BYTES ? table : null;
    } catch {
      return null;
    }
  }

  /** Sends what is in the local store to S3: once, however many have written it. */
  async #keep(digest: Digest): Promise<void> {
    let upload = this.#uploads.get(digest);
    if (upload === undefined) {
      upload = this.#upload(digest).finally(() => this.#uploads.delete(digest));
      this.#uploads.set(digest, upload);
    }
    await upload;
    await this.#copies.trim();
  }

  async #upload(digest: Digest): Promise<void> {
    const file = await this.#local.localFile(digest);
    if (file === null) throw new StoreError('ERR_STORE_IO', `${digest} is gone from ${this.scratch()}`);
    try {
      const { sizeBytes, digests } = await chunkDigests(file.path, DEFAULT_CHUNK_BYTES);
      this.#copies.used(digest, sizeBytes);
      const there = await this.#objects.head(blobKey(digest));
      if (there?.sizeBytes !== sizeBytes) await this.#objects.upload(blobKey(digest), file.path, sizeBytes);
      if (sizeBytes <= DEFAULT_CHUNK_BYTES || (await this.#objects.head(tableKey(digest))) !== null) return;
      const table = { chunkSize: DEFAULT_CHUNK_BYTES, blobSize: sizeBytes, digests };
      await this.#objects.put(tableKey(digest), encodeChunkTable(table));
    } catch (error) {
      await file.close();
      if (await this.#local.remove(digest)) this.#copies.forget(digest);
      throw error;
    } finally {
      await file.close();
    }
  }

  #trim(): void {
    // What cannot be removed now can be the next time.
    this.#copies.trim().catch(() => {});
  }

  /** The table first: what is without a blob would be found by nobody. */
  async #removeObjects(digest: Digest): Promise<void> {
    await this.#objects.remove(tableKey(digest));
    await this.#objects.remove(blobKey(digest));
  }

  async #hashThere(digest: Digest, sizeBytes: number, signal?: AbortSignal): Promise<Digest> {
    const digester = new Digester(digestAlgorithm(digest));
    for (let at = 0; at < sizeBytes; at += VERIFY_STEP_BYTES) {
      const end = Math.min(at + VERIFY_STEP_BYTES, sizeBytes);
      const bytes = await this.#objects.range(blobKey(digest), at, end, signal);
      if (bytes !== null) digester.update(bytes);
    }
    return digester.digest();
  }
}

class RemoteSource implements ByteSource {
  readonly size: number;
  #remote: S3RemoteBlob | null;

  /** Over what its maker has joined. */
  constructor(remote: S3RemoteBlob) {
    this.#remote = remote;
    this.size = remote.blob.sizeBytes;
  }

  async read(offset: number, target: Buffer, signal?: AbortSignal): Promise<void> {
    if (this.#remote === null) throw new SourceError('ERR_SOURCE_IO', 'read after close');
    await this.#remote.read(offset, target, signal);
  }

  async close(): Promise<void> {
    this.#remote?.leave();
    this.#remote = null;
  }
}

function blobKey(digest: Digest): string {
  return `blobs/${pathOf(digest)}`;
}

function tableKey(digest: Digest): string {
  return `tables/${pathOf(digest)}`;
}

function pathOf(digest: Digest): string {
  const hex = digestHex(digest);
  return `${digestAlgorithm(digest)}/${hex.slice(0, 2)}/${hex}`;
}
