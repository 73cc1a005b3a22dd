import type { ByteString } from './byte-string.ts';
import { toDisplay } from './byte-string.ts';
import { FormatError } from './errors.ts';

/** PATH_MAX and NAME_MAX of Linux. */
export const MAX_PATH_BYTES = 4096;
export const MAX_NAME_BYTES = 255;

const WHITEOUT_PREFIX = '.wh.';
const OPAQUE_NAME = '.wh..wh..opq';

/** An empty name, '.' or '..' somewhere in a path. */
const UNUSUAL = /(?:^|\/)\.{0,2}(?:\/|$)/;

/**
 * An archive's path as a path from the root of the image: without leading or trailing slash, empty for the root
 * itself; '.' and empty components are left out. Throws ERR_LAYER_CONFLICT where a '..' would climb, ERR_LIMIT
 * where a file system would not take the name.
 */
export function normaliseEntryPath(path: ByteString): ByteString {
  // As archivers write them: nothing to do but to take off what stands around the names.
  const usual = path.slice(path.startsWith('./') ? 2 : 0, path.endsWith('/') ? -1 : undefined);
  if (usual.length <= MAX_NAME_BYTES && !UNUSUAL.test(usual)) return usual;
  const components = path.split('/').filter((name) => name !== '' && name !== '.');
  for (const name of components) {
    if (name === '..') {
      throw new FormatError('ERR_LAYER_CONFLICT', `a path with '..' in the layer: ${shorten(path)}`);
    }
    // No file is made of a whiteout: what it hides may have the longest name that there is.
    if (name.length > MAX_NAME_BYTES + (name.startsWith(WHITEOUT_PREFIX) ? WHITEOUT_PREFIX.length : 0)) {
      throw new FormatError('ERR_LIMIT', `a name longer than ${MAX_NAME_BYTES} bytes: ${shorten(path)}`);
    }
  }
  const normalised = components.join('/');
  if (normalised.length > MAX_PATH_BYTES) {
    throw new FormatError('ERR_LIMIT', `a path longer than ${MAX_PATH_BYTES} bytes: ${shorten(path)}`);
  }
  return normalised;
}

/** What a file with a marker's name stands for. */
export type Whiteout =
  /** `path` of the layers below is gone. */
  | { readonly kind: 'whiteout'; readonly path: ByteString }
  /** The directory `path` hides what the layers below hold in it. */
  | { readonly kind: 'opaque'; readonly path: ByteString };

/**
 * Reads a normalised path as a marker (OCI image-spec, layer.md, "Whiteouts" and "Opaque Whiteout"); null if it
 * names an ordinary file. Files of aufs (".wh..wh.plnk") are nothing special, as in containerd: as whiteouts they
 * hide nothing that there is, and what lies below one is content. Throws ERR_LAYER_CONFLICT for a whiteout that
 * names nothing.
 */
export function whiteoutOf(path: ByteString): Whiteout | null {
  if (!path.includes(WHITEOUT_PREFIX)) return null;
  const slash = path.lastIndexOf('/');
  const parent = slash === -1 ? '' : path.slice(0, slash);
  const name = path.slice(slash + 1);
  if (name === OPAQUE_NAME) return { kind: 'opaque', path: parent };
  if (!name.startsWith(WHITEOUT_PREFIX)) return null;
  const hidden = name.slice(WHITEOUT_PREFIX.length);
  if (hidden === '' || hidden === '.' || hidden === '..') {
    throw new FormatError('ERR_LAYER_CONFLICT', `a whiteout that names nothing: ${shorten(path)}`);
  }
  return { kind: 'whiteout', path: parent === '' ? hidden : `${parent}/${hidden}` };
}

function shorten(path: ByteString): string {
  return toDisplay(path.length > 200 ? `${path.slice(0, 200)}...` : path);
}
