import { randomUUID } from 'node:crypto';
import { copyFile, link, mkdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import { REF_NAME_ANNOTATION } from './annotations.ts';
import { type Digest, digestAlgorithm, digestHex, digestOf, matchesDigest } from './digest.ts';
import { OciError } from './errors.ts';
import { parseJson } from './json.ts';
import { type Descriptor, descriptorSchema, encodeJson, MAX_MANIFEST_BYTES } from './manifest.ts';
import { OCI_INDEX } from './media-types.ts';

/** An entry of a layout's index: an image, an index or an artifact, with the name that it has there. */
export interface LayoutEntry {
  readonly tag: string | null;
  readonly descriptor: Descriptor;
}

const LAYOUT_FILE = 'oci-layout';
const INDEX_FILE = 'index.json';
const LAYOUT_VERSION = '1.0.0';
/** What `readBlob` takes into memory: far more than configurations and chunk tables have. */
const MAX_SMALL_BLOB_BYTES = 64 * 1024 * 1024;

const layoutSchema = z.object({ imageLayoutVersion: z.literal(LAYOUT_VERSION) });
const indexSchema = z.looseObject({ schemaVersion: z.literal(2), manifests: z.array(descriptorSchema) });

/**
 * A directory of images (OCI image-spec, image-layout.md) as skopeo, umoci and buildah read and write it. Files
 * appear under their names when they are complete; one process at a time may set tags.
 */
export class ImageLayout {
  readonly #directory: string;
  #tagging: Promise<void> = Promise.resolve();

  private constructor(directory: string) {
    this.#directory = directory;
  }

  /** @throws OciError ERR_LAYOUT_NOT_FOUND, ERR_LAYOUT_INVALID */
  static async open(directory: string): Promise<ImageLayout> {
    const layout = new ImageLayout(directory);
    await layout.#readJson(LAYOUT_FILE, layoutSchema);
    await layout.list();
    return layout;
  }

  /** Opens the layout in a directory, making both where they are missing. */
  static async create(directory: string): Promise<ImageLayout> {
    const layout = new ImageLayout(directory);
    await mkdir(join(directory, 'blobs', 'sha256'), { recursive: true });
    if (!(await exists(join(directory, INDEX_FILE)))) {
      await layout.#write(INDEX_FILE, encodeJson({ schemaVersion: 2, mediaType: OCI_INDEX, manifests: [] }));
    }
    if (!(await exists(join(directory, LAYOUT_FILE)))) {
      await layout.#write(LAYOUT_FILE, encodeJson({ imageLayoutVersion: LAYOUT_VERSION }));
    }
    return ImageLayout.open(directory);
  }

  /** What the layout's index names, in its order. */
  async list(): Promise<LayoutEntry[]> {
    const { manifests } = await this.#readJson(INDEX_FILE, indexSchema);
    return manifests.map((descriptor) => ({
      tag: descriptor.annotations?.[REF_NAME_ANNOTATION] ?? null,
      descriptor,
    }));
  }

  /**
   * The manifest that a tag names; without one, the layout's only manifest.
   * @throws OciError ERR_LAYOUT_NOT_FOUND, naming the tags there are; see {@link readBlob}
   */
  async resolve(tag?: string): Promise<{ readonly descriptor: Descriptor; readonly bytes: Buffer }> {
    const entries = await this.list();
    const found = tag === undefined ? entries : entries.filter((entry) => entry.tag === tag);
    const [first, second] = found;
    if (first === undefined || (tag === undefined && second !== undefined)) {
      const tags = entries.map((entry) => entry.tag ?? '(none)').join(', ') || 'nothing';
      const problem = tag === undefined ? 'a tag is needed to choose an image' : `there is no tag ${tag}`;
      throw new OciError('ERR_LAYOUT_NOT_FOUND', `${this.#directory}: ${problem}; it holds ${tags}`);
    }
    const { descriptor } = first;
    return { descriptor, bytes: await this.readBlob(descriptor.digest, MAX_MANIFEST_BYTES) };
  }

  /** Where a blob's bytes are, or would be. */
  blobPath(digest: Digest): string {
    return join(this.#directory, 'blobs', digestAlgorithm(digest), digestHex(digest));
  }

  /**
   * A small blob's bytes, verified.
   * @throws OciError ERR_LAYOUT_NOT_FOUND, ERR_LAYOUT_INVALID if it has more than `maxBytes`, ERR_LAYOUT_DIGEST
   */
  async readBlob(digest: Digest, maxBytes: number = MAX_SMALL_BLOB_BYTES): Promise<Buffer> {
    const path = this.blobPath(digest);
    const { size } = await stat(path).catch(notFound(path));
    if (size > maxBytes) {
      throw new OciError('ERR_LAYOUT_INVALID', `${path} has ${size} bytes, ${maxBytes} are allowed here`);
    }
    const bytes = await readFile(path);
    if (!matchesDigest(bytes, digest)) {
      throw new OciError(
        'ERR_LAYOUT_DIGEST',
        `${path} holds other bytes than those of its name; copy it again`,
      );
    }
    return bytes;
  }

  /** Adds a blob. */
  async putBlob(bytes: Uint8Array): Promise<Digest> {
    const digest = digestOf(bytes);
    if (!(await exists(this.blobPath(digest)))) {
      await this.#place(digest, (path) => writeFile(path, bytes, { flush: true }));
    }
    return digest;
  }

  /**
   * Adds a file as a blob: by a hard link where both are on one file system, else by copying.
   * @param digest of the file's bytes; not checked
   */
  async linkBlob(path: string, digest: Digest): Promise<void> {
    if (await exists(this.blobPath(digest))) return;
    await this.#place(digest, (temporary) => link(path, temporary).catch(() => copyFile(path, temporary)));
  }

  /** Lets a tag name a manifest of the layout, and nothing else any more. */
  async tag(name: string, descriptor: Descriptor): Promise<void> {
    const done = this.#tagging.then(async () => {
      const index = await this.#readJson(INDEX_FILE, indexSchema);
      const others = index.manifests.filter((one) => one.annotations?.[REF_NAME_ANNOTATION] !== name);
      const tagged = {
        ...descriptor,
        annotations: { ...descriptor.annotations, [REF_NAME_ANNOTATION]: name },
      };
      await this.#write(INDEX_FILE, encodeJson({ ...index, manifests: [...others, tagged] }));
    });
    this.#tagging = done.catch(() => {});
    await done;
  }

  async #readJson<T>(name: string, schema: z.ZodType<T>): Promise<T> {
    const path = join(this.#directory, name);
    const text = await readFile(path, 'utf8').catch(notFound(path));
    try {
      return schema.parse(parseJson(text));
    } catch (cause) {
      throw new OciError('ERR_LAYOUT_INVALID', `${path} is not that of an OCI image layout`, { cause });
    }
  }

  async #write(name: string, bytes: Buffer): Promise<void> {
    await this.#replace(join(this.#directory, name), (path) => writeFile(path, bytes, { flush: true }));
  }

  async #place(digest: Digest, make: (path: string) => Promise<void>): Promise<void> {
    const path = this.blobPath(digest);
    await mkdir(join(path, '..'), { recursive: true });
    await this.#replace(path, make);
  }

  /** Makes a file beside `blobs`, where nobody looks for blobs, and moves it to its place. */
  async #replace(path: string, make: (temporary: string) => Promise<void>): Promise<void> {
    const temporary = join(this.#directory, `.writing-${randomUUID()}`);
    try {
      await make(temporary);
      await rename(temporary, path);
    } finally {
      // Renaming one hard link of a file to another leaves both.
      await rm(temporary, { force: true });
    }
  }
}

async function exists(path: string): Promise<boolean> {
  return stat(path).then(
    () => true,
    () => false,
  );
}

/** For `catch`. */
function notFound(path: string): (cause: unknown) => never {
  return (cause) => {
    throw new OciError('ERR_LAYOUT_NOT_FOUND', `cannot read ${path}; is it an OCI image layout?`, { cause });
  };
}
