/**
 * The last bytes of an answer, which no reader gets before the digest is verified: so no answer out of a blob that
 * turns out to be another one, whole or part, is ever complete.
 */
export const HELD_BACK_BYTES = 64 * 1024;
