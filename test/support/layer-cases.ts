import { END_BLOCKS } from './tar-blocks.ts';
import { madeMember, type TarInput } from './tar-maker.ts';

/**
 * Programs that unpack images. containerd counts twice (`native`, `overlayfs`): what it does depends on where it puts
 * the files. GNU tar and bsdtar are asked about what those do not read.
 */
export type Judge = 'umoci' | 'native' | 'overlayfs' | 'tar' | 'bsdtar';

/** Says why a judge is not followed, by what it does: "PATH: FIELD", as `diffTrees` begins to tell it. */
export type Dissent = Readonly<Record<string, string>>;

/** A judge that takes no such image: a part of what it says, and why we take it. */
export interface Refusal {
  readonly refuses: string;
  readonly because: string;
}

/** An image with something odd in its layers. */
export interface LayerCase {
  readonly name: string;
  /** Its archives, the lowest first; those of real programs are made in a directory with a `tree` to be packed. */
  readonly layers: readonly Buffer[] | ((scratch: string) => Promise<readonly Buffer[]>);
  /** Directories that no layer lists: judges give them the time of their unpacking, we the beginning of time. */
  readonly unlisted?: readonly string[];
  /** Directories that the last layer changes but does not list: containerd gives them the time of the unpacking. */
  readonly touched?: readonly string[];
  /** Who is asked besides umoci and containerd. */
  readonly also?: Judge;
  /** All else that judges do otherwise. */
  readonly dissent?: Readonly<Partial<Record<Judge, Dissent | Refusal>>>;
}

/** An archive of ready blocks and of members to be made. */
export function archive(...members: readonly (Buffer | TarInput)[]): Buffer {
  const blocks = members.map((member) => (Buffer.isBuffer(member) ? member : madeMember(member)));
  return Buffer.concat([...blocks, END_BLOCKS]);
}

export function dir(path: string, more: Partial<TarInput> = {}): TarInput {
  return { path, type: 'directory', ...more };
}

/** A file; its content is its name unless it is given. */
export function file(path: string, content = path, more: Partial<TarInput> = {}): TarInput {
  return { path, content: Buffer.from(content, 'latin1'), ...more };
}

export function symlink(path: string, linkTarget: string, more: Partial<TarInput> = {}): TarInput {
  return { path, type: 'symlink', mode: 0o777, linkTarget, ...more };
}

export function hardlink(path: string, linkTarget: string, more: Partial<TarInput> = {}): TarInput {
  return { path, type: 'hardlink', linkTarget, ...more };
}

export function whiteout(path: string): TarInput {
  return { path: path.replace(/[^/]*$/, '.wh.$&') };
}

export function opaque(path: string): TarInput {
  return { path: `${path}/.wh..wh..opq` };
}

/** A value of `security.capability`. */
export const FILE_CAPABILITY = Buffer.from('0100000202000000000000000000000000000000', 'hex');

/** Why containerd's native snapshotter shows another time of a directory. */
export const COPIES =
  'its copies of the layers below do not keep the times of directories that hold something';
