import type { ByteString } from './byte-string.ts';

/** What a file system keeps about any inode, whatever its type. */
export interface Attributes {
  /** The 12 permission bits. */
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  /** Seconds since 1970, may be negative. */
  readonly mtimeSeconds: number;
  /** 0 to 999,999,999. */
  readonly mtimeNanoseconds: number;
  /** Full names ("user.comment") and values. */
  readonly xattrs: ReadonlyMap<ByteString, Buffer>;
}

/** A file's last, partial block, kept apart until its inode has a place to hold it. */
export interface InlineTail {
  /** Bytes from the start of the tail spool. */
  readonly offset: number;
  readonly length: number;
}

/**
 * One change that a layer makes to the tree below it (OCI image-spec, layer.md). Paths are relative to the
 * root, without leading slash; the root itself is the empty path. They still pass through symbolic links of
 * the tree they are applied to.
 */
export type LayerEntry =
  | {
      readonly kind: 'file';
      readonly path: ByteString;
      readonly attributes: Attributes;
      readonly size: number;
      /** Where its whole blocks start, in 4096-byte blocks of the layer's own data; 0 if it has none. */
      readonly firstBlock: number;
      readonly inlineTail: InlineTail | null;
    }
  | { readonly kind: 'directory'; readonly path: ByteString; readonly attributes: Attributes }
  | {
      readonly kind: 'symlink';
      readonly path: ByteString;
      readonly attributes: Attributes;
      readonly target: ByteString;
    }
  | {
      readonly kind: 'character' | 'block';
      readonly path: ByteString;
      readonly attributes: Attributes;
      readonly major: number;
      readonly minor: number;
    }
  | { readonly kind: 'fifo'; readonly path: ByteString; readonly attributes: Attributes }
  /**
   * `path` is one more name of what `target` names, in this layer or below. `changes` are the attributes that all
   * names have from then on; with null they stay.
   */
  | {
      readonly kind: 'hardlink';
      readonly path: ByteString;
      readonly target: ByteString;
      readonly changes: Omit<Attributes, 'xattrs'> | null;
    }
  /** Hides `path` of the layers below. */
  | { readonly kind: 'whiteout'; readonly path: ByteString }
  /** Hides all that the layers below hold in the directory `path`. */
  | { readonly kind: 'opaque'; readonly path: ByteString };
