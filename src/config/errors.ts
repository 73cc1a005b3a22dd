/** A configuration cannot be used. The message names the key and what to put there. */
export class ConfigError extends Error {
  override readonly name = 'ConfigError';
  readonly code = 'ERR_CONFIG';
}
