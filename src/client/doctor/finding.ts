/** One thing about this host that matters to the node daemon. */
export interface Finding {
  readonly name: string;
  /** `missing`: nothing works without it. `limited`: it works, but not as well as it could. */
  readonly state: 'good' | 'limited' | 'missing';
  readonly found: string;
  /** What follows from it. */
  readonly means: string;
  /** What would be better, and how to get it; null if nothing would. */
  readonly better: string | null;
}

/** As good as it gets. */
export function good(name: string, found: string, means: string): Finding {
  return { name, state: 'good', found, means, better: null };
}

export function limited(name: string, found: string, means: string, better: string): Finding {
  return { name, state: 'limited', found, means, better };
}

export function missing(name: string, found: string, means: string, better: string): Finding {
  return { name, state: 'missing', found, means, better };
}
