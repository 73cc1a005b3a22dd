import { z } from 'zod';
import { type Digest, digestAlgorithm, isDigest } from './digest.ts';
import { type RegistryContext, RegistryError } from './errors.ts';
import { type Descriptor, parseManifest } from './manifest.ts';
import { bareMediaType, OCI_INDEX } from './media-types.ts';
import { isTag } from './reference.ts';
import {
  discard,
  type HttpResponse,
  header,
  headerBytes,
  readExactly,
  readUpTo,
  tooBig,
} from './registry-http.ts';

export interface ResolvedManifest {
  readonly digest: Digest;
  /** Without parameters, in lower case. */
  readonly mediaType: string;
  /** Bytes. */
  readonly size: number;
}

/** What the headers of a manifest's answer say; null if they leave out its digest or size. */
export function resolvedFrom(
  response: HttpResponse,
  reference: string,
  context: RegistryContext,
): ResolvedManifest | null {
  const named = contentDigest(response);
  const asked = isDigest(reference) ? reference : null;
  // A registry may name it by another algorithm than it was asked by (Distribution spec, "Pulling manifests").
  if (asked !== null && named !== null && isOtherDigest(named, asked)) throw digestMismatch(context, asked);
  const digest = asked ?? named;
  const size = headerBytes(response, 'content-length');
  return digest === null || size === null ? null : { digest, mediaType: contentType(response), size };
}

function isOtherDigest(named: Digest, asked: Digest): boolean {
  return named !== asked && digestAlgorithm(named) === digestAlgorithm(asked);
}

/** `Docker-Content-Digest`, if it is a digest. */
export function contentDigest(response: HttpResponse): Digest | null {
  const text = header(response, 'docker-content-digest');
  return text !== null && isDigest(text) ? text : null;
}

/** Without parameters, in lower case. */
export function contentType(response: HttpResponse): string {
  return bareMediaType(header(response, 'content-type') ?? '');
}

/**
 * A body of at most `maxBytes`.
 * @throws RegistryError ERR_REGISTRY_TOO_BIG, ERR_REGISTRY_BODY
 */
export async function readSmall(
  response: HttpResponse,
  maxBytes: number,
  context: RegistryContext,
): Promise<Buffer> {
  const length = headerBytes(response, 'content-length');
  if (length === null) return readUpTo(response.body, maxBytes, context);
  if (length <= maxBytes) return readExactly(response.body, length, context);
  discard(response.body);
  throw tooBig(context, String(length), maxBytes);
}

/** The entries of a list of referrers. */
export function indexEntries(bytes: Buffer, context: RegistryContext): readonly Descriptor[] {
  try {
    const parsed = parseManifest(bytes, OCI_INDEX);
    if (parsed.kind === 'index') return parsed.manifests;
  } catch {
    // As below.
  }
  throw protocolError(context, 'the list of referrers is not an index');
}

const tagsSchema = z.object({ tags: z.array(z.string()).nullish() });

/** The tags of a list; those that are none cannot be asked for and are left out. */
export function tagNames(bytes: Buffer, context: RegistryContext): readonly string[] {
  try {
    return (tagsSchema.parse(JSON.parse(bytes.toString('utf8'))).tags ?? []).filter(isTag);
  } catch {
    throw protocolError(context, 'the list of tags is not one');
  }
}

/** `Link: <url>; rel="next"` (RFC 8288), as a path of the registry's own. */
export function nextPage(link: string | null, page: URL): string | null {
  const target = /^\s*<([^>]*)>\s*;.*\brel="?next"?/i.exec(link ?? '')?.[1];
  if (target === undefined || !URL.canParse(target, page.href)) return null;
  const next = new URL(target, page.href);
  return next.origin === page.origin ? next.href : null;
}

export function digestMismatch(context: RegistryContext, expected: Digest): RegistryError {
  return new RegistryError(
    'ERR_REGISTRY_DIGEST',
    context,
    `the registry sent other bytes than those of ${expected}; the content was damaged or changed on its way`,
  );
}

export function protocolError(context: RegistryContext, message: string): RegistryError {
  return new RegistryError('ERR_REGISTRY_PROTOCOL', context, message);
}
