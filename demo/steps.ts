import { stderr } from 'node:process';
import { ProgressLine } from '../src/cli/output.ts';

/** What a step has to say while it runs. */
export type Say = (text: string) => void;

const TITLE_COLUMNS = 12;

/** Prints the steps of the demo to stderr: a line that moves on a terminal, plain lines elsewhere. */
export class Steps {
  readonly #progress = new ProgressLine({ quiet: false });

  /**
   * Runs one step and prints its title, its result and its time.
   * @param work returns the step's value and what to print about it
   */
  async step<T>(title: string, work: (say: Say) => Promise<readonly [T, string]>): Promise<T> {
    const startMs = performance.now();
    const heading = title.padEnd(TITLE_COLUMNS);
    this.#progress.show(`… ${heading}`);
    try {
      const [value, summary] = await work((text) => this.#progress.show(`… ${heading}${text}`));
      this.#progress.clear();
      stderr.write(
        `${mark('✓', 32)} ${heading}${summary}  ${dim(formatSeconds(performance.now() - startMs))}\n`,
      );
      return value;
    } catch (error) {
      this.#progress.clear();
      stderr.write(`${mark('✗', 31)} ${heading}\n`);
      throw error;
    }
  }
}

/** Milliseconds for people, in seconds. */
export function formatSeconds(ms: number): string {
  return `${(ms / 1000).toFixed(ms < 10_000 ? 2 : 1)} s`;
}

function mark(character: string, colour: number): string {
  return stderr.isTTY ? `\x1b[${colour}m${character}\x1b[0m` : character;
}

function dim(text: string): string {
  return stderr.isTTY ? `\x1b[2m(${text})\x1b[0m` : `(${text})`;
}
