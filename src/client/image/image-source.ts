import { parseLayoutReference } from '../../oci/layout-reference.ts';
import type { ConvertedImage } from './image.ts';
import { openLayoutImage } from './layout-image.ts';
import { openRegistryImage, type RegistryImageOptions } from './registry-image.ts';

/**
 * Opens an image by the name that a user gives it: `oci:DIRECTORY[:TAG]` for an image layout, anything else for
 * a registry.
 */
export function openImage(options: RegistryImageOptions): Promise<ConvertedImage> {
  const layout = parseLayoutReference(options.reference);
  return layout === null ? openRegistryImage(options) : openLayoutImage(options.reference, layout);
}
