import { expect, vi } from 'vitest';
import type { Digest } from '../../src/oci/digest.ts';
import type { ConversionStatus } from '../../src/proxy/conversion/conversion-status.ts';
import { END_BLOCKS, tarMember } from './tar-blocks.ts';
import type { TestProxy } from './test-proxy.ts';

/** A plain layer of one file, whose bytes its name decides. */
export function layerOf(name: string, bytes = 100_000): Buffer {
  return Buffer.concat([tarMember({ path: name }, Buffer.alloc(bytes, name)), END_BLOCKS]);
}

/** How the conversion of a manifest that was pulled ended. */
export function ended(proxy: TestProxy, digest: Digest): Promise<ConversionStatus> {
  return vi.waitFor(
    async () => {
      const status = (await (await proxy.fetch(`/dadi/v1/conversions/${digest}`)).json()) as ConversionStatus;
      expect(['done', 'failed']).toContain(status.state);
      return status;
    },
    { timeout: 60_000, interval: 50 },
  );
}
