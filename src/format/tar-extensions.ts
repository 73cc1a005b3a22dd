import type { ByteString } from './byte-string.ts';
import { checkName, type Extensions } from './tar-entry.ts';
import { mergeGlobalRecords, type PaxRecords, parsePaxRecords } from './tar-pax.ts';

/** Headers that speak of the members behind them: pax's local and global ones, GNU's long names and links. */
export type ExtendedTypeflag = 'x' | 'g' | 'L' | 'K';

/** What extended headers said so far about the member to come. */
export class ExtendedHeaders {
  #global: PaxRecords | null = null;
  #local: PaxRecords | null = null;
  #longName: ByteString | null = null;
  #longLink: ByteString | null = null;

  /** Whether there is anything that only the next member concerns. */
  get isPending(): boolean {
    return this.#local !== null || this.#longName !== null || this.#longLink !== null;
  }

  /** Takes a header's body. Throws FormatError. */
  add(typeflag: ExtendedTypeflag, body: Buffer): void {
    switch (typeflag) {
      case 'x':
        this.#local = parsePaxRecords(body);
        return;
      case 'g':
        this.#global = mergeGlobalRecords(this.#global, parsePaxRecords(body));
        return;
      case 'L':
        this.#longName = readLongName(body);
        return;
      case 'K':
        this.#longLink = readLongName(body);
        return;
    }
  }

  /** All that concerns the member at hand; of the next one, only what global headers said is known then. */
  takeForMember(): Extensions {
    const pax = [this.#local, this.#global].filter((records) => records !== null);
    const extensions = { pax, longName: this.#longName, longLink: this.#longLink };
    this.#local = null;
    this.#longName = null;
    this.#longLink = null;
    return extensions;
  }
}

/** The name in the body of GNU's L and K headers, which ends with a NUL. */
function readLongName(body: Buffer): ByteString {
  let end = body.length;
  while (end > 0 && body[end - 1] === 0) end--;
  const name = body.toString('latin1', 0, end);
  checkName('long name', name);
  return name;
}
