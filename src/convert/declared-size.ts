import type { Descriptor } from '../oci/manifest.ts';
import { ConvertError } from './errors.ts';

/** Configs of real images have some KB. */
const MAX_CONFIG_BYTES = 8 * 1024 * 1024;

/**
 * A part of an image has the size that the manifest says: containerd refuses what has not, and limits count on it.
 * @param what the part, as the message names it
 * @throws ConvertError ERR_CONVERT_IMAGE
 */
export function checkSize(what: string, { digest, size }: Descriptor, actualBytes: number): void {
  if (size === actualBytes) return;
  throw new ConvertError(
    'ERR_CONVERT_IMAGE',
    `the image's ${what} ${digest} has ${actualBytes} bytes, its manifest says ${size}`,
  );
}

/**
 * Before a config is read into memory.
 * @throws ConvertError ERR_CONVERT_IMAGE if it says to be larger than any real one
 */
export function checkConfigSize({ digest, size }: Descriptor): void {
  if (size <= MAX_CONFIG_BYTES) return;
  throw new ConvertError(
    'ERR_CONVERT_IMAGE',
    `the image's config ${digest} has ${size} bytes, more than ${MAX_CONFIG_BYTES}`,
  );
}
