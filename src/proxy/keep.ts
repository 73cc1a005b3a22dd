import type { Logger } from 'pino';

/**
 * Writes to the catalog what can be asked again. That it cannot be written (the disk is full) is no reason to refuse
 * what is at hand.
 */
export async function tryToKeep(log: Logger, write: () => Promise<void>): Promise<void> {
  try {
    await write();
  } catch (error) {
    log.error({ err: error }, 'the catalog cannot be written');
  }
}
