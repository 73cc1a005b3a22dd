import type { Logger } from 'pino';
import { isStoreFailure } from '../../store/errors.ts';

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

/**
 * Asks the store for what upstream may have as well: null also while the store cannot be read (a bucket is out of
 * reach, a disk has failed), so that upstream is asked.
 */
export async function tryToRead<T>(log: Logger, read: () => Promise<T | null>): Promise<T | null> {
  try {
    return await read();
  } catch (error) {
    if (!isStoreFailure(error)) throw error;
    log.error({ err: error }, 'the store cannot be read: upstream is asked');
    return null;
  }
}
