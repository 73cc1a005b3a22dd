import { createHash } from 'node:crypto';
import type { Platform } from '../../oci/manifest.ts';
import { formatPlatform } from '../../oci/platform.ts';
import type { RepositoryName } from '../../store/catalog.ts';

/** What of all that is pulled is converted. */
export interface SelectionOptions {
  /** Patterns; none for all. */
  readonly include: readonly string[];
  /** Patterns; they win over `include`. */
  readonly exclude: readonly string[];
  /** Of an index: which of its images are converted without being asked for. */
  readonly platforms: 'all' | 'requested' | readonly string[];
  /** Images whose layers, compressed, are smaller are left as they are. */
  readonly minImageBytes: number;
}

interface Pattern {
  readonly text: string;
  readonly name: RegExp;
  /** Null for any tag, and for images that are pulled by digest. */
  readonly tag: RegExp | null;
}

/**
 * Decides by name and platform. A pattern is `UPSTREAM/REPOSITORY[:TAG]`, the whole of it: `*` stands for any
 * characters but `/`, `**` for any, `?` for one that is not `/`.
 */
export class ConversionSelection {
  /** Names these options: what was left under others is looked at again. */
  readonly id: string;
  readonly minImageBytes: number;
  readonly #include: readonly Pattern[];
  readonly #exclude: readonly Pattern[];
  readonly #platforms: SelectionOptions['platforms'];

  constructor({ include, exclude, platforms, minImageBytes }: SelectionOptions) {
    const text = JSON.stringify([include, exclude, minImageBytes]);
    this.id = createHash('sha256').update(text).digest('hex').slice(0, 8);
    this.minImageBytes = minImageBytes;
    this.#include = include.map(parsePattern);
    this.#exclude = exclude.map(parsePattern);
    this.#platforms = platforms;
  }

  get hasPatterns(): boolean {
    return this.#include.length + this.#exclude.length > 0;
  }

  /**
   * Why an image is left as it is, or null if it is converted. `tags` are those that name it in the repository: one
   * that is wanted is enough.
   */
  whyLeft({ upstream, repository }: RepositoryName, tags: readonly string[]): string | null {
    const name = `${upstream}/${repository}`;
    const reasons = (tags.length === 0 ? [null] : tags).map((tag) => this.#whyNot(name, tag));
    return reasons.includes(null) ? null : (reasons[0] ?? null);
  }

  /** Whether an image of an index is converted though nobody asks for it. */
  wants(platform: Platform | undefined): boolean {
    if (this.#platforms === 'all') return true;
    if (this.#platforms === 'requested' || platform === undefined) return false;
    const name = formatPlatform(platform);
    // `linux/arm64` means all its variants.
    return this.#platforms.some((wanted) => name === wanted || name.startsWith(`${wanted}/`));
  }

  #whyNot(name: string, tag: string | null): string | null {
    const matches = (pattern: Pattern) =>
      pattern.name.test(name) && (pattern.tag === null || (tag !== null && pattern.tag.test(tag)));
    const excluded = this.#exclude.find(matches);
    if (excluded !== undefined) return `conversion.exclude has ${JSON.stringify(excluded.text)}`;
    if (this.#include.length === 0 || this.#include.some(matches)) return null;
    return `no pattern of conversion.include fits ${name}${tag === null ? '' : `:${tag}`}`;
  }
}

function parsePattern(text: string): Pattern {
  const colon = text.indexOf(':', text.lastIndexOf('/') + 1);
  if (colon === -1) return { text, name: globExpression(text), tag: null };
  return { text, name: globExpression(text.slice(0, colon)), tag: globExpression(text.slice(colon + 1)) };
}

function globExpression(glob: string): RegExp {
  const parts = glob.split(/(\*\*|\*|\?)/).map((part) => {
    switch (part) {
      case '**':
        return '.*';
      case '*':
        return '[^/]*';
      case '?':
        return '[^/]';
      default:
        return part.replace(/[.+^${}()|[\]\\]/g, '\\$&');
    }
  });
  return new RegExp(`^${parts.join('')}$`);
}
