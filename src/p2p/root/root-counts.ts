/** What has happened since the start. */
export interface RootCounts {
  joins: number;
  /** Members that got another place, or whose place got another one, by why. */
  readonly repairs: Record<'left' | 'silent' | 'lost' | 'suspected', number>;
  suspected: number;
  wrongBytes: number;
  /** That members received, by their own word. */
  readonly received: Record<'peers' | 'proxies', number>;
}

export function noCounts(): RootCounts {
  return {
    joins: 0,
    repairs: { left: 0, silent: 0, lost: 0, suspected: 0 },
    suspected: 0,
    wrongBytes: 0,
    received: { peers: 0, proxies: 0 },
  };
}
