import { z } from 'zod';
import { parseJson } from './json.ts';

const signedSchema = z.object({ signatures: z.array(z.object({ protected: z.string() })).min(1) });
const protectedSchema = z.object({ formatLength: z.int().nonnegative(), formatTail: z.string() });

/**
 * What the digest of a signed manifest of Docker schema 1 is of: the manifest as it was before the signatures were put
 * into it. The first signature tells how many bytes of that stand at the beginning, and how it ended (Docker's
 * "Image Manifest Version 2, Schema 1", "Signed Manifests"). Null if the bytes are not such a manifest.
 */
export function signedSchema1Payload(bytes: Buffer): Buffer | null {
  try {
    const [signature] = signedSchema.parse(parseJson(bytes.toString('utf8'))).signatures;
    const header = Buffer.from(signature?.protected ?? '', 'base64url').toString('utf8');
    const { formatLength, formatTail } = protectedSchema.parse(parseJson(header));
    return Buffer.concat([bytes.subarray(0, formatLength), Buffer.from(formatTail, 'base64url')]);
  } catch {
    return null;
  }
}
