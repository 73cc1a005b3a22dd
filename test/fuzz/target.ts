import { ConvertError } from '../../src/convert/errors.ts';
import { SourceError } from '../../src/format/byte-source.ts';
import { FormatError } from '../../src/format/errors.ts';
import { OciError } from '../../src/oci/errors.ts';
import type { Random } from './random.ts';

/** One reader under fuzzing. */
export interface FuzzTarget {
  /** Well-formed inputs, which `run` takes without an error. */
  readonly corpus: readonly Buffer[];
  /** An input that is probably not well formed; nothing but `input`, `other` and `random` decides it. */
  mutate(input: Buffer, random: Random, other: Buffer): Buffer;
  /** Has the reader read an input. Throws what the reader throws, or {@link Violation}. */
  run(input: Buffer, random: Random): Promise<void> | void;
  close?(): Promise<void> | void;
}

/** The reader did not refuse an input, but did something with it that it must not do. */
export class Violation extends Error {
  override readonly name = 'Violation';
}

/** Whether this is how a reader may refuse an input: an error class of ours, with its code. */
export function isTyped(error: unknown): error is Error & { code: string } {
  return (
    (error instanceof FormatError ||
      error instanceof SourceError ||
      error instanceof OciError ||
      error instanceof ConvertError) &&
    error.code.startsWith('ERR_')
  );
}
