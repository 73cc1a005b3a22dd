/** A file that is left as it is, because what is wanted cannot be brought together with what it says. */
export class SetupError extends Error {
  override readonly name = 'SetupError';
  readonly code = 'ERR_SETUP_CONFLICT';
}
