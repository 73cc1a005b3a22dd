import { createHash } from 'node:crypto';
import { normaliseEntryPath, whiteoutOf } from '../../src/format/layer-path.ts';
import type { TarEntry } from '../../src/format/tar-entry.ts';
import { type TarHandler, TarReader } from '../../src/format/tar-reader.ts';
import { archives, mutateArchive } from './tar-archives.ts';
import { type FuzzTarget, isTyped, Violation } from './target.ts';

/** The tar reader, and the reading of the paths that it gives. However an archive is cut, it reads the same. */
export function tarTarget(): FuzzTarget {
  return {
    corpus: archives(),
    mutate: mutateArchive,
    run(input, random) {
      const inOne = readingOf(input, () => input.length);
      const inPieces = readingOf(input, () => 1 + random.below(random.pick([3, 600, 5000])));
      if (inOne.summary !== inPieces.summary) {
        throw new Violation(`read in one: ${inOne.summary}; in pieces: ${inPieces.summary}`);
      }
      if (inOne.error !== null) throw inOne.error;
      for (const path of inOne.paths) checkPath(path);
    },
  };
}

interface Reading {
  readonly summary: string;
  readonly paths: readonly string[];
  readonly error: unknown;
}

function readingOf(archive: Buffer, nextLength: () => number): Reading {
  const handler = new CheckingHandler();
  let error: unknown = null;
  try {
    const reader = new TarReader(handler);
    for (let at = 0; at < archive.length; ) {
      const piece = Buffer.from(archive.subarray(at, at + nextLength()));
      reader.write(piece);
      at += piece.length;
      // Whoever keeps a part of the piece is found out.
      piece.fill(0xa5);
    }
    reader.finish();
  } catch (cause) {
    error = cause;
  }
  const end = error === null ? 'end' : isTyped(error) ? `${error.code} ${error.message}` : String(error);
  return { summary: `${handler.members} members, ${handler.digest()}, ${end}`, paths: handler.paths, error };
}

class CheckingHandler implements TarHandler {
  readonly paths: string[] = [];
  members = 0;
  readonly #hash = createHash('sha1');
  #current: TarEntry | null = null;
  #position = 0;

  entry(entry: TarEntry): void {
    if (this.#current !== null) throw new Violation('a member begins inside another one');
    this.#current = entry;
    this.#position = 0;
  }

  data(bytes: Buffer): void {
    if (bytes.length === 0) throw new Violation('data of no bytes');
    this.#hash.update(bytes);
    this.#advance(bytes.length);
  }

  hole(lengthBytes: number): void {
    if (!Number.isSafeInteger(lengthBytes) || lengthBytes <= 0)
      throw new Violation(`a hole of ${lengthBytes}`);
    this.#hash.update(`hole ${lengthBytes}`);
    this.#advance(lengthBytes);
  }

  end(entry: TarEntry): void {
    if (entry !== this.#current) throw new Violation('the end of a member that did not begin');
    if (entry.size !== this.#position) throw new Violation(`${this.#position} bytes of ${entry.size}`);
    const { xattrs, ...fields } = entry;
    this.#hash.update(
      JSON.stringify([fields, [...xattrs].map(([name, value]) => [name, value.toString('hex')])]),
    );
    this.#current = null;
    this.members++;
    this.paths.push(entry.path);
    if (entry.linkTarget !== '') this.paths.push(entry.linkTarget);
  }

  digest(): string {
    return this.#hash.digest('hex');
  }

  #advance(lengthBytes: number): void {
    if (this.#current === null) throw new Violation('bytes of no member');
    this.#position += lengthBytes;
    if (this.#position > this.#current.size) throw new Violation('more bytes than the member has');
  }
}

function checkPath(path: string): void {
  try {
    const normalised = normaliseEntryPath(path);
    if (/(^|\/)(\.{0,2})(\/|$)/.test(normalised) && normalised !== '')
      throw new Violation(`${path} stays ${normalised}`);
    const whiteout = whiteoutOf(normalised);
    if (whiteout?.kind === 'whiteout' && whiteout.path === '') throw new Violation(`${path} hides the root`);
  } catch (error) {
    if (!isTyped(error)) throw error;
  }
}
