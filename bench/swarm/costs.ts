/** What things take, as measured with real daemons; see the mesh bench and the swarm bench's --calibrate. */
export interface Costs {
  /** Processor time of a host for a container's start, but for its chunks: what the start waits for. */
  readonly startMs: number;
  /** The same, that is done meanwhile. */
  readonly besideMs: number;
  /** Of a host for a chunk that it receives: TLS, digest, cache, decompression. */
  readonly receiveMs: number;
  /** Of a host for a chunk that it sends to another one. */
  readonly sendMs: number;
  /** Until a peer begins to send what it was asked for, besides the time on the wire. */
  readonly peerMs: number;
  /** Of the proxy for a chunk. */
  readonly proxySendMs: number;
  /** Of a root for one join, all contents of an image together, and for any other request. */
  readonly joinMs: number;
  /** One way between any two hosts. */
  readonly latencyMs: number;
  /** Bytes that a chunk takes on the wire. */
  readonly chunkBytes: number;
}
