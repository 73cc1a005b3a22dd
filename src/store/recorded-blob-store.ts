import type { ByteSource } from '../format/byte-source.ts';
import type { Digest } from '../oci/digest.ts';
import type { BlobStore, BlobWriter, ExpectedBlob, HeldBlob, ListedBlob, LocalFile } from './blob-store.ts';
import type { UseRecorder } from './use-recorder.ts';

/** A blob store that tells a recorder what comes into it and what is of use. */
export class RecordedBlobStore implements BlobStore {
  readonly #store: BlobStore;
  readonly #recorder: UseRecorder;
  readonly #onUnreadable: (digest: Digest) => void;

  /** @param onUnreadable told of a blob of which a read failed */
  constructor(store: BlobStore, recorder: UseRecorder, onUnreadable: (digest: Digest) => void) {
    this.#store = store;
    this.#recorder = recorder;
    this.#onUnreadable = onUnreadable;
  }

  async stat(digest: Digest): Promise<{ sizeBytes: number } | null> {
    const found = await this.#store.stat(digest);
    if (found !== null) this.#recorder.used(digest);
    return found;
  }

  async open(digest: Digest): Promise<ByteSource | null> {
    const source = await this.#store.open(digest);
    if (source === null) return null;
    this.#recorder.used(digest);
    return new WatchedSource(source, {
      failed: () => this.#onUnreadable(digest),
      used: () => this.#recorder.used(digest),
    });
  }

  hold(digest: Digest): Promise<HeldBlob | null> {
    return this.#used(digest, this.#store.hold(digest));
  }

  localFile(digest: Digest): Promise<LocalFile | null> {
    return this.#used(digest, this.#store.localFile(digest));
  }

  list(): AsyncIterable<ListedBlob> {
    return this.#store.list();
  }

  async writer(expected: ExpectedBlob | null): Promise<BlobWriter> {
    const writer = await this.#store.writer(expected);
    const recorder = this.#recorder;
    return {
      path: writer.path,
      get bytesWritten() {
        return writer.bytesWritten;
      },
      write: (...pieces) => writer.write(...pieces),
      verify: () => writer.verify(),
      commit: async () => {
        const stored = await writer.commit();
        recorder.stored(stored);
        return stored;
      },
      abort: () => writer.abort(),
    };
  }

  async adopt(path: string, digest: Digest): Promise<void> {
    await this.#store.adopt(path, digest);
    const found = await this.#store.stat(digest);
    if (found !== null) this.#recorder.stored({ digest, ...found });
  }

  async put(bytes: Buffer): Promise<Digest> {
    const digest = await this.#store.put(bytes);
    this.#recorder.stored({ digest, sizeBytes: bytes.length });
    return digest;
  }

  remove(digest: Digest): Promise<boolean> {
    return this.#store.remove(digest);
  }

  verify(digest: Digest, signal?: AbortSignal): Promise<'intact' | 'damaged' | 'absent'> {
    return this.#store.verify(digest, signal);
  }

  scratch(): string {
    return this.#store.scratch();
  }

  close(): Promise<void> {
    return this.#store.close();
  }

  async #used<T extends HeldBlob>(digest: Digest, holding: Promise<T | null>): Promise<T | null> {
    const held = await holding;
    if (held !== null) this.#recorder.used(digest);
    return held;
  }
}

/** A slow reader uses a blob to the end: that it is held here, other replicas do not see. */
class WatchedSource implements ByteSource {
  readonly size: number;
  readonly #source: ByteSource;
  readonly #tell: { readonly failed: () => void; readonly used: () => void };

  constructor(source: ByteSource, tell: { readonly failed: () => void; readonly used: () => void }) {
    this.#source = source;
    this.size = source.size;
    this.#tell = tell;
  }

  async read(offset: number, target: Buffer, signal?: AbortSignal): Promise<void> {
    this.#tell.used();
    try {
      await this.#source.read(offset, target, signal);
    } catch (error) {
      if (signal?.aborted !== true) this.#tell.failed();
      throw error;
    }
  }

  async close(): Promise<void> {
    this.#tell.used();
    await this.#source.close();
  }
}
