/** More children than this no member has, whatever is configured. */
export const MAX_SLOTS = 64;

/**
 * How many children a member can feed: each gets its share of the announced upload, and even the slowest member feeds one.
 * @param limits.maxFanOut from 1 to {@link MAX_SLOTS}
 */
export function slotsFor(
  uploadBytesPerSecond: number,
  limits: { readonly bytesPerSecondPerChild: number; readonly maxFanOut: number },
): number {
  const affordable = Math.floor(uploadBytesPerSecond / limits.bytesPerSecondPerChild);
  return Math.max(1, Math.min(affordable, limits.maxFanOut, MAX_SLOTS));
}

/**
 * The least depth that any tree of these members can have: the strongest at the top, and each level full before the next
 * one begins. Members for whom there is no slot stand at the top, whatever their number.
 * @param counts how many members have 0, 1, 2, ... slots
 * @param tops how many members belong at the top
 */
export function leastDepth(counts: readonly number[], tops: number): number {
  const left = [...counts];
  let members = left.reduce((sum, count) => sum + count, 0);
  let strongest = left.length - 1;
  let width = tops;
  let depth = 0;
  while (members > 0 && width > 0) {
    depth += 1;
    let room = width;
    width = 0;
    while (room > 0 && strongest >= 0) {
      const taken = Math.min(room, left[strongest] ?? 0);
      left[strongest] = (left[strongest] ?? 0) - taken;
      room -= taken;
      members -= taken;
      width += taken * strongest;
      if (left[strongest] === 0) strongest -= 1;
    }
  }
  return depth;
}
