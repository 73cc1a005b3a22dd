import type { BlobWriter, StoredBlob } from './blob-store.ts';

/** Writes a local file first, so that nothing is sent before it is verified. */
export class S3BlobWriter implements BlobWriter {
  readonly path: string;
  readonly #local: BlobWriter;
  readonly #send: (blob: StoredBlob) => Promise<void>;

  /** `send` puts into S3 what is in the local store. */
  constructor(local: BlobWriter, send: (blob: StoredBlob) => Promise<void>) {
    this.#local = local;
    this.path = local.path;
    this.#send = send;
  }

  get bytesWritten(): number {
    return this.#local.bytesWritten;
  }

  write(...pieces: readonly Buffer[]): Promise<void> {
    return this.#local.write(...pieces);
  }

  verify(): Promise<void> {
    return this.#local.verify();
  }

  async commit(): Promise<StoredBlob> {
    const blob = await this.#local.commit();
    await this.#send(blob);
    return blob;
  }

  abort(): Promise<void> {
    return this.#local.abort();
  }
}
