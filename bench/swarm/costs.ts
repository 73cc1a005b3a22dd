/** What things take, as measured with real daemons by bench/mesh-costs.ts. Times of work are of one processor. */
export interface Costs {
  /**
   * Of a host for the first container of an image, once, but for its chunks: asking for the image, opening and mounting it,
   * reading it. Before each step of the start; the last one is what comes after all steps.
   */
  readonly hostSteps: readonly HostStep[];
  /** Of the daemon for each container, of which it does one after the other. */
  readonly containerDaemonMs: number;
  /** Of each container's program, and of what mounts its root. */
  readonly containerMs: number;
  /**
   * Of the machine for a host's first container, and of no program here: the kernel's, those that make the links, the one
   * that measures. Only where hosts share a machine.
   */
  readonly aroundMs: number;
  /** Of a host's daemon for a chunk that it receives: TLS, digest, cache. */
  readonly receiveMs: number;
  /** Of a host's daemon for a chunk that it sends to another one. */
  readonly sendMs: number;
  /** Until a peer begins to send what it was asked for, besides all that is counted here. */
  readonly peerMs: number;
  /** Of the proxy for a chunk. */
  readonly proxySendMs: number;
  /** Of the proxy for each host that pulls an image: what is converted, chunk tables. */
  readonly pull: PullCosts;
  /** Of a host in the mesh: others have the tables. */
  readonly meshPull: PullCosts;
  /** Of a root for one join, and for each content in it. */
  readonly joinMs: number;
  readonly joinContentMs: number;
  /** Of a root for a heartbeat; whatever else is said to it is taken for one. */
  readonly heartbeatMs: number;
  /** One way between any two hosts. */
  readonly latencyMs: number;
  /** Bytes that a chunk takes on the wire. */
  readonly chunkBytes: number;
}

export interface PullCosts {
  readonly ms: number;
  /** One after the other. */
  readonly requests: number;
}

export interface HostStep {
  /** What the daemon does first, then its helpers: the step waits for both. */
  readonly daemonMs: number;
  readonly helperMs: number;
  /** What is done meanwhile. */
  readonly besideMs: number;
}
