/** As libc declares them. */
export const MOUNT = 'int mount(const char *, const char *, const char *, unsigned long, const char *)';
export const UMOUNT2 = 'int umount2(const char *, int)';

/** mount(2) and umount2(2), as {@link MountHelper}s are asked for them. */
export type MountCall =
  | {
      readonly name: 'mount';
      readonly source: string;
      readonly target: string;
      readonly fsType: string;
      readonly flags: number;
      readonly data: string | null;
    }
  | { readonly name: 'umount2'; readonly target: string; readonly flags: number };

/** 0, or the number of the system's error. */
export interface MountAnswer {
  readonly errno: number;
}
