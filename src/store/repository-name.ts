/** One repository of one upstream registry. */
export interface RepositoryName {
  /** The upstream's configured name: `docker.io`. */
  readonly upstream: string;
  readonly repository: string;
}
