import { BLOCK_BYTES } from '../format/erofs-layout.ts';
import { SECTOR_BYTES } from '../format/segments.ts';

/** Layers are laid out in blocks of EROFS; LSMT counts sectors. */
export const SECTORS_PER_BLOCK = BLOCK_BYTES / SECTOR_BYTES;
