/** What reading cost so far; one object is shared by all blobs of a device. */
export interface ReadStats {
  /** Requests sent to the registry for blob bytes, retries included. */
  requests: number;
  /** Chunks that came from the registry, or the proxies, and were right. */
  chunksFetched: number;
  /** Bytes that came from there, right or not. */
  bytesFetched: number;
  /** Chunks that came from other hosts and were right. */
  chunksFromMesh: number;
  bytesFromMesh: number;
  /** Chunks that a read found in the cache. */
  cacheHits: number;
  /** Bytes that reads took from there. */
  bytesFromCache: number;
  /** Bytes given to the layers above. */
  bytesRead: number;
}

export function newReadStats(): ReadStats {
  return {
    ...{ requests: 0, chunksFetched: 0, bytesFetched: 0, chunksFromMesh: 0, bytesFromMesh: 0 },
    ...{ cacheHits: 0, bytesFromCache: 0, bytesRead: 0 },
  };
}
