import type { ByteString } from './byte-string.ts';
import type { Extensions } from './tar-entry.ts';
import { readString } from './tar-header.ts';
import { type PaxRecords, parsePaxRecords } from './tar-pax.ts';

/** Headers that speak of the members behind them: pax's local and global ones, GNU's long names and links. */
export type ExtendedTypeflag = 'x' | 'g' | 'L' | 'K';

const NO_EXTENSIONS: Extensions = { pax: null, longName: null, longLink: null };

/** What extended headers said so far about the member to come. */
export class ExtendedHeaders {
  #pax: PaxRecords | null = null;
  #longName: ByteString | null = null;
  #longLink: ByteString | null = null;

  /** Takes a header's body. Throws FormatError. */
  add(typeflag: ExtendedTypeflag, body: Buffer): void {
    switch (typeflag) {
      case 'x':
        this.#pax = parsePaxRecords(body);
        return;
      case 'g':
        // POSIX would have it speak of all members to come. Go's reader, and so every container runtime, passes over
        // it, and what runs is what they unpack; broken ones they refuse.
        parsePaxRecords(body);
        return;
      case 'L':
        this.#longName = readString(body, 0, body.length);
        return;
      case 'K':
        this.#longLink = readString(body, 0, body.length);
        return;
    }
  }

  /** All that concerns the member at hand; of the next one, nothing is known then. */
  takeForMember(): Extensions {
    if (this.#pax === null && this.#longName === null && this.#longLink === null) return NO_EXTENSIONS;
    const extensions = { pax: this.#pax, longName: this.#longName, longLink: this.#longLink };
    this.#pax = null;
    this.#longName = null;
    this.#longLink = null;
    return extensions;
  }
}
