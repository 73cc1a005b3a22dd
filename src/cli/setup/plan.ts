import type { TomlChange } from './toml-edit.ts';

/** How a change of a file that others write, too, is taken back when it has been changed since. */
export type Reversal =
  /** It was written as a whole. */
  | { readonly kind: 'whole' }
  | { readonly kind: 'toml'; readonly changes: readonly TomlChange[] }
  /** Values that were put into lists of a JSON object. */
  | { readonly kind: 'json'; readonly added: readonly { readonly key: string; readonly value: string }[] };

/** What is to become of a file. */
export interface FilePlan {
  /** Below the root: `/etc/containerd/config.toml`. */
  readonly path: string;
  readonly before: string | null;
  readonly after: string;
  readonly reversal: Reversal;
}

/** What sets a runtime up. */
export interface Plan {
  readonly files: readonly FilePlan[];
  /** What people have to know. */
  readonly notes: readonly string[];
}

export interface SetupWishes {
  /** Where the node's mirror answers. */
  readonly mirror: URL;
  /** The snapshotter's socket. */
  readonly socket: string;
  /** Which registries are mirrored; all or the usual ones if empty. */
  readonly registries: readonly string[];
}

/** Reads a file below the root; null if there is none. */
export type ReadFile = (path: string) => string | null;

/** Names in a directory below the root; none if there is none. */
export type ListNames = (directory: string) => readonly string[];
