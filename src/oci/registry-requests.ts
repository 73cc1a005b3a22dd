import { errorCode } from '../format/error-code.ts';
import { type BlobRange, downloadFrom, rangeHeaders, type UnsizedDownload } from './blob-download.ts';
import { type Digest, digestAlgorithm, digestHex, digestOf, isDigest, matchesDigest } from './digest.ts';
import { type RegistryContext, RegistryError } from './errors.ts';
import { type Descriptor, MAX_MANIFEST_BYTES } from './manifest.ts';
import { bareMediaType, isDockerSchema1, MANIFEST_ACCEPT, OCI_INDEX } from './media-types.ts';
import {
  contentDigest,
  contentType,
  digestMismatch,
  indexEntries,
  nextPage,
  protocolError,
  readSmall,
} from './registry-answers.ts';
import { discard, type HttpResponse, header, headerBytes, tooBig } from './registry-http.ts';
import type { Endpoint } from './registry-route.ts';
import type { RegistryRequest } from './registry-transport.ts';
import { signedSchema1Payload } from './schema1.ts';

export interface Waiting {
  readonly signal?: AbortSignal | undefined;
}

export interface Accepting extends Waiting {
  /** Media types, in place of all that can be read here. */
  readonly accept?: readonly string[] | undefined;
}

export interface FetchedManifest {
  readonly digest: Digest;
  readonly mediaType: string;
  readonly bytes: Buffer;
}

/** The running download of a blob, or of a part of it. Nothing has been verified. */
export interface BlobDownload extends UnsizedDownload {
  /** Of the whole blob. */
  readonly sizeBytes: number;
  /** To be called when the bytes turned out not to be the blob's: the mirror that they came from gets a rest. */
  distrust(): void;
}

const MAX_PAGES = 1000;
const MAX_LIST_BYTES = 64 * 1024 * 1024;

/** One request of one endpoint; see {@link RegistryTransport.send}. */
export function send(
  endpoint: Endpoint,
  request: RegistryRequest,
  context: RegistryContext,
): Promise<HttpResponse> {
  return endpoint.transport.send({ ...request, path: endpoint.path(request.path) }, context);
}

export function manifestPath(repository: string, reference: string): string {
  return `v2/${repository}/manifests/${reference}`;
}

export function blobPath(repository: string, digest: Digest): string {
  return `v2/${repository}/blobs/${digest}`;
}

export function acceptHeader({ accept = MANIFEST_ACCEPT }: Accepting): Record<string, string> {
  return { accept: accept.join(', ') };
}

/** A manifest, verified against the digest asked for or, by tag, the one that the endpoint names. */
export async function fetchManifest(
  endpoint: Endpoint,
  repository: string,
  reference: string,
  options: Accepting,
): Promise<FetchedManifest> {
  const context = { host: endpoint.host, repository, reference };
  const path = manifestPath(repository, reference);
  const headers = acceptHeader(options);
  const { signal } = options;
  const request = { method: 'GET', kind: 'manifest', path, repository, headers, signal } as const;
  const response = await send(endpoint, request, context);
  const bytes = await readSmall(response, MAX_MANIFEST_BYTES, context);
  const expected = isDigest(reference) ? reference : contentDigest(response);
  const mediaType = contentType(response);
  const signed = isDockerSchema1(bareMediaType(mediaType)) ? (signedSchema1Payload(bytes) ?? bytes) : bytes;
  if (expected !== null && !matchesDigest(signed, expected)) throw digestMismatch(context, expected);
  return { digest: expected ?? digestOf(signed), mediaType, bytes };
}

export async function blobSize(
  endpoint: Endpoint,
  repository: string,
  digest: Digest,
  signal: AbortSignal | undefined,
): Promise<number> {
  const context = { host: endpoint.host, repository, reference: digest };
  const path = blobPath(repository, digest);
  const request = { method: 'HEAD', kind: 'blob', path, repository, headers: {}, signal } as const;
  const response = await send(endpoint, request, context);
  await response.body.dump();
  const sizeBytes = headerBytes(response, 'content-length');
  if (sizeBytes === null) throw protocolError(context, 'the registry does not say how large the blob is');
  return sizeBytes;
}

/** Starts a download; where it breaks off, that is told to the endpoint. */
export async function startBlob(
  endpoint: Endpoint,
  repository: string,
  digest: Digest,
  { signal, ...range }: Waiting & BlobRange,
): Promise<BlobDownload> {
  const context = { host: endpoint.host, repository, reference: digest };
  const path = blobPath(repository, digest);
  const headers = rangeHeaders(range);
  const request = { method: 'GET', kind: 'blob', path, repository, headers, signal } as const;
  const { sizeBytes, ...download } = downloadFrom(await send(endpoint, request, context), range, context);
  const { body } = download;
  body.on('error', (error) => {
    // Not where we have ended it ourselves.
    if (signal?.aborted !== true && errorCode(error) !== 'UND_ERR_ABORTED') endpoint.failed(error);
  });
  const distrust = () => endpoint.failed(digestMismatch(context, digest));
  if (sizeBytes !== null) return { ...download, sizeBytes, distrust };
  try {
    return { ...download, sizeBytes: await blobSize(endpoint, repository, digest, signal), distrust };
  } catch (error) {
    discard(body);
    throw error;
  }
}

/** A part of a list, and the URL of the next one. */
interface ListPage {
  readonly page: Buffer;
  readonly next: string | null;
}

type ListContext = RegistryContext & { readonly repository: string };

export async function readPage(
  endpoint: Endpoint,
  path: string,
  accept: string,
  context: ListContext,
  signal: AbortSignal | undefined,
): Promise<ListPage> {
  const { repository } = context;
  const request = { method: 'GET', kind: 'list', path, repository, headers: { accept }, signal } as const;
  const response = await send(endpoint, request, context);
  const page = await readSmall(response, MAX_MANIFEST_BYTES, context);
  const url = new URL(path, endpoint.transport.connections.baseUrl.href);
  return { page, next: nextPage(header(response, 'link'), url) };
}

/** The bodies of a list that the endpoint may answer in parts, each with a link to the next. */
export async function readPages(
  endpoint: Endpoint,
  firstPath: string,
  accept: string,
  context: ListContext,
  signal: AbortSignal | undefined,
): Promise<Buffer[]> {
  const pages: Buffer[] = [];
  let totalBytes = 0;
  for (let path: string | null = firstPath; path !== null; ) {
    if (pages.length === MAX_PAGES) throw protocolError(context, `its list has more than ${MAX_PAGES} pages`);
    const { page, next }: ListPage = await readPage(endpoint, path, accept, context, signal);
    totalBytes += page.length;
    if (totalBytes > MAX_LIST_BYTES) throw tooBig(context, `more than ${MAX_LIST_BYTES}`, MAX_LIST_BYTES);
    pages.push(page);
    path = next;
  }
  return pages;
}

/** What a registry without the referrers API keeps under a tag (Distribution spec, "Referrers Tag Schema"). */
export async function referrersByTag(
  endpoint: Endpoint,
  repository: string,
  digest: Digest,
  signal: AbortSignal | undefined,
): Promise<readonly Descriptor[]> {
  const tag = `${digestAlgorithm(digest)}-${digestHex(digest).slice(0, 64)}`;
  const options = { accept: [OCI_INDEX], signal };
  const index = await fetchManifest(endpoint, repository, tag, options).catch(nullOnStatus(404));
  const context = { host: endpoint.host, repository, reference: tag };
  return index === null ? [] : indexEntries(index.bytes, context);
}

/** For `catch`: null in place of an answer with this status. */
export function nullOnStatus(status: number): (error: unknown) => null {
  return (error) => {
    if (error instanceof RegistryError && error.status === status) return null;
    throw error;
  };
}
