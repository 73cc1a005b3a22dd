/** EROFS's block, and what layers are laid out in. */
export const BLOCK_BYTES = 4096;
/** LSMT counts sectors of 512 bytes. */
export const SECTORS_PER_BLOCK = 8;
