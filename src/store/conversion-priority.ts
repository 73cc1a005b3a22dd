/** Whose turn comes first among conversions that wait. The greater one's. */
export const PRIORITY = {
  /** A node asked for one of its chains, and a container waits. */
  waitingNode: 3,
  /** Somebody pulled it. */
  pulled: 2,
  /** It is to be there before somebody pulls it. */
  preheat: 1,
  /** A platform of an index of which another one was pulled. */
  otherPlatform: 0,
  /** It failed before. */
  retry: -1,
} as const;
