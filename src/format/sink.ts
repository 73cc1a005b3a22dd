/** Where a writer's bytes go, in order. */
export interface Sink {
  /** Consumes the bytes before it returns: the caller may use the buffer again. */
  write(bytes: Buffer): void;
}
