/** Gives whole numbers from 0 to below what is asked for, the same ones for the same seed. */
export function seededRandom(seed: number): (below: number) => number {
  let state = seed | 1;
  return (below) => {
    // xorshift (Marsaglia, 2003)
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) % below;
  };
}
