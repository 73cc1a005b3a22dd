import { z } from 'zod';
import { type Digest, isDigest } from './digest.ts';
import { OciError, type OciErrorCode } from './errors.ts';
import { parseJson } from './json.ts';
import {
  bareMediaType,
  isDockerSchema1,
  isImageConfig,
  isImageManifest,
  isIndex,
  layerFormat,
  OCI_INDEX,
  OCI_MANIFEST,
} from './media-types.ts';

/** What a registry has to accept at least (Distribution spec, "Pushing Manifests"), and most accept at most. */
export const MAX_MANIFEST_BYTES = 4 * 1024 * 1024;

export interface Platform {
  readonly os: string;
  readonly architecture: string;
  readonly variant?: string | undefined;
}

/** OCI image-spec, descriptor.md. Fields not listed here are there too when the JSON had them. */
export interface Descriptor {
  readonly mediaType: string;
  readonly digest: Digest;
  /** Bytes. */
  readonly size: number;
  readonly annotations?: Readonly<Record<string, string>> | undefined;
  readonly platform?: Platform | undefined;
  readonly artifactType?: string | undefined;
  /** Where else the bytes may be had. */
  readonly urls?: readonly string[] | undefined;
}

interface ManifestBase {
  /** Exactly as they were received: whoever serves the manifest serves these. */
  readonly bytes: Buffer;
  readonly mediaType: string;
  readonly artifactType: string | null;
  readonly subject: Descriptor | null;
  readonly annotations: Readonly<Record<string, string>>;
}

/** A runnable image (kind `image`), or something else in an image manifest's form (kind `artifact`). */
export interface ImageManifest extends ManifestBase {
  readonly kind: 'image' | 'artifact';
  readonly config: Descriptor;
  /** Bottom first. */
  readonly layers: readonly Descriptor[];
}

export interface IndexManifest extends ManifestBase {
  readonly kind: 'index';
  readonly manifests: readonly Descriptor[];
}

export type Manifest = ImageManifest | IndexManifest;

const annotationsSchema = z.record(z.string(), z.string());
const digestSchema = z.string().refine(isDigest, 'not a sha256 or sha512 digest');

/** Fields nobody here knows are kept, so that a descriptor can be put into another index. */
export const descriptorSchema: z.ZodType<Descriptor> = z.looseObject({
  mediaType: z.string(),
  digest: digestSchema,
  size: z.int().nonnegative(),
  annotations: annotationsSchema.nullish().transform((value) => value ?? undefined),
  platform: z
    .looseObject({ os: z.string(), architecture: z.string(), variant: z.string().optional() })
    .optional(),
  artifactType: z.string().optional(),
  urls: z.array(z.string()).optional(),
});

const imageSchema = z.object({
  config: descriptorSchema,
  layers: z.array(descriptorSchema),
  artifactType: z.string().optional(),
  subject: descriptorSchema.nullish(),
  annotations: annotationsSchema.nullish(),
});

const indexSchema = z.object({
  manifests: z.array(descriptorSchema),
  artifactType: z.string().optional(),
  subject: descriptorSchema.nullish(),
  annotations: annotationsSchema.nullish(),
});

/**
 * Reads an OCI image manifest or index, or a Docker schema 2 manifest or list.
 * @param mediaType the Content-Type it came with; left out, or one that says nothing (`application/json`), the
 *   body decides
 * @throws OciError ERR_MANIFEST_TOO_BIG, ERR_MANIFEST_INVALID (also when header and body disagree, or the body
 *   could be read as both image and index), ERR_MANIFEST_UNSUPPORTED
 */
export function parseManifest(bytes: Buffer, mediaType?: string | null): Manifest {
  if (bytes.length > MAX_MANIFEST_BYTES) {
    throw new OciError(
      'ERR_MANIFEST_TOO_BIG',
      `the manifest has ${bytes.length} bytes, more than ${MAX_MANIFEST_BYTES}`,
    );
  }
  const json = parseJsonObject(bytes, 'ERR_MANIFEST_INVALID', 'manifest');
  const type = decideMediaType(json, mediaType == null ? null : bareMediaType(mediaType));
  if (isIndex(type)) {
    const index = check(indexSchema, json, 'ERR_MANIFEST_INVALID', 'index');
    return { kind: 'index', ...base(bytes, type, index), manifests: index.manifests };
  }
  const image = check(imageSchema, json, 'ERR_MANIFEST_INVALID', 'manifest');
  const { config, layers } = image;
  const kind = isRunnable(config, layers, image.artifactType) ? 'image' : 'artifact';
  return { kind, ...base(bytes, type, image), config, layers };
}

function base(
  bytes: Buffer,
  mediaType: string,
  parsed: Pick<z.infer<typeof indexSchema>, 'artifactType' | 'subject' | 'annotations'>,
): ManifestBase {
  return {
    bytes,
    mediaType,
    artifactType: parsed.artifactType ?? null,
    subject: parsed.subject ?? null,
    annotations: parsed.annotations ?? {},
  };
}

/**
 * Attestations have an image's config and no artifactType, so the layers have a say: one that has layers, or
 * calls itself an artifact, and none of them is a file system layer, is not to be run.
 */
function isRunnable(
  config: Descriptor,
  layers: readonly Descriptor[],
  artifactType: string | undefined,
): boolean {
  if (!isImageConfig(config.mediaType)) return false;
  if (layers.some((layer) => layerFormat(layer.mediaType) !== null)) return true;
  return layers.length === 0 && artifactType === undefined;
}

/**
 * One digest must not name an image to one reader and an index to another (GHSA-77vh-xpmg-72qh): header, body
 * and form have to agree.
 */
function decideMediaType(json: Readonly<Record<string, unknown>>, given: string | null): string {
  const { mediaType: inBody, schemaVersion } = json;
  if (schemaVersion === 1 || (given !== null && isDockerSchema1(given))) {
    throw new OciError(
      'ERR_MANIFEST_UNSUPPORTED',
      'the manifest is of Docker schema 1, which is obsolete and cannot be converted; push the image again with a current client',
    );
  }
  if (schemaVersion !== 2) throw invalid(`schemaVersion is ${JSON.stringify(schemaVersion)}, expected 2`);
  const looksLikeIndex = 'manifests' in json;
  const looksLikeImage = 'config' in json || 'layers' in json;
  if (looksLikeIndex && looksLikeImage) throw invalid('it could be read as an image and as an index');

  const header = given === null || given === '' || SAYS_NOTHING.has(given) ? null : given;
  if (typeof inBody === 'string' && header !== null && inBody !== header) {
    throw invalid(`it came as ${header} but calls itself ${inBody}`);
  }
  const type = typeof inBody === 'string' ? inBody : header;
  if (type === null) {
    if (looksLikeIndex) return OCI_INDEX;
    if (looksLikeImage) return OCI_MANIFEST;
    throw invalid('it is neither an image nor an index');
  }
  if (!isIndex(type) && !isImageManifest(type)) {
    throw new OciError('ERR_MANIFEST_UNSUPPORTED', `manifests of type ${type} are not supported`);
  }
  return type;
}

const SAYS_NOTHING: ReadonlySet<string> = new Set([
  'application/json',
  'application/octet-stream',
  'text/plain',
]);

function invalid(reason: string): OciError {
  return new OciError('ERR_MANIFEST_INVALID', `the manifest is not valid: ${reason}`);
}

/** What we read of an image's configuration (OCI image-spec, config.md). */
export interface ImageConfig extends Platform {
  readonly rootfs: { readonly diff_ids: readonly Digest[] };
  /** The whole parsed JSON, to write a configuration that differs from it in a few fields. */
  readonly raw: Readonly<Record<string, unknown>>;
}

const configSchema = z.object({
  // Images made by old tools leave them empty or out; Docker reads that as its own platform.
  os: z.string().optional(),
  architecture: z.string().optional(),
  variant: z.string().optional(),
  rootfs: z.object({ type: z.literal('layers'), diff_ids: z.array(digestSchema).nullable() }),
});

/** @throws OciError ERR_CONFIG_INVALID */
export function parseImageConfig(bytes: Buffer): ImageConfig {
  const raw = parseJsonObject(bytes, 'ERR_CONFIG_INVALID', 'image configuration');
  const { os, architecture, variant, rootfs } = check(
    configSchema,
    raw,
    'ERR_CONFIG_INVALID',
    'image configuration',
  );
  return {
    os: os || 'linux',
    architecture: architecture || 'amd64',
    ...(variant ? { variant } : {}),
    rootfs: { diff_ids: rootfs.diff_ids ?? [] },
    raw,
  };
}

/** JSON whose bytes depend on the value only: object keys sorted, no white space. For what we write ourselves. */
export function encodeJson(value: unknown): Buffer {
  return Buffer.from(
    JSON.stringify(value, (_key, inner: unknown) =>
      typeof inner === 'object' && inner !== null && !Array.isArray(inner)
        ? Object.fromEntries(Object.entries(inner).sort(([a], [b]) => (a < b ? -1 : 1)))
        : inner,
    ),
  );
}

function parseJsonObject(bytes: Buffer, code: OciErrorCode, what: string): Record<string, unknown> {
  let json: unknown;
  try {
    json = parseJson(bytes.toString('utf8'));
  } catch (cause) {
    throw new OciError(code, `the ${what} is not JSON`, { cause });
  }
  return check(z.record(z.string(), z.unknown()), json, code, what);
}

function check<T>(schema: z.ZodType<T>, value: unknown, code: OciErrorCode, what: string): T {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  const [issue] = result.error.issues;
  const where = issue === undefined || issue.path.length === 0 ? '' : ` at ${issue.path.join('.')}`;
  throw new OciError(code, `the ${what} is not valid${where}: ${issue?.message ?? 'unknown reason'}`);
}
