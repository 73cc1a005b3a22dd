import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { type Digest, digestOf } from '../../src/oci/digest.ts';
import { OCI_CONFIG, OCI_INDEX, OCI_LAYER_TAR, OCI_MANIFEST } from '../../src/oci/media-types.ts';

/** One request that came. */
export interface SeenRequest {
  readonly method: string;
  readonly path: string;
  readonly range: string | undefined;
}

/**
 * A registry in memory that does what it is told, also what no honest registry would: for tests of what a
 * proxy makes of that. It has the same manifests and blobs in every repository.
 */
export class FakeRegistry {
  readonly requests: SeenRequest[] = [];
  readonly url: string;
  /** Answers in place of the registry if it returns true. */
  intercept: (request: IncomingMessage, response: ServerResponse) => boolean = () => false;
  readonly #server: Server;
  readonly #blobs = new Map<string, Buffer>();
  readonly #manifests = new Map<string, { bytes: Buffer; mediaType: string }>();
  readonly #referrers = new Map<string, object[]>();

  private constructor(server: Server, url: string) {
    this.#server = server;
    this.url = url;
  }

  /** On a port of its own, or a given one. */
  static async start(port = 0): Promise<FakeRegistry> {
    const server = createServer();
    await new Promise<void>((resolve) => server.listen(port, '127.0.0.1', resolve));
    const address = server.address();
    if (address === null || typeof address === 'string') throw new Error('a TCP server has no port');
    const registry = new FakeRegistry(server, `http://127.0.0.1:${address.port}`);
    server.on('request', (request, response) => registry.#answer(request, response));
    return registry;
  }

  async stop(): Promise<void> {
    const closed = new Promise((resolve) => this.#server.close(resolve));
    this.#server.closeAllConnections();
    await closed;
  }

  /** How many requests came with this method for a path that ends so. */
  count(method: string, pathEnd: string): number {
    return this.requests.filter((seen) => seen.method === method && seen.path.endsWith(pathEnd)).length;
  }

  putBlob(bytes: Buffer, digest: Digest = digestOf(bytes)): Digest {
    this.#blobs.set(digest, bytes);
    return digest;
  }

  /** Under its digest and, if given, a tag. */
  putManifest(bytes: Buffer, mediaType: string, tag?: string): Digest {
    const digest = digestOf(bytes);
    this.#manifests.set(digest, { bytes, mediaType });
    if (tag !== undefined) this.#manifests.set(tag, { bytes, mediaType });
    return digest;
  }

  removeManifest(reference: string): void {
    this.#manifests.delete(reference);
  }

  putReferrers(digest: Digest, descriptors: object[]): void {
    this.#referrers.set(digest, descriptors);
  }

  /** An image of uncompressed layers; its config names no diff IDs that are true. */
  putImage(layers: readonly Buffer[], tag?: string): FakeImage {
    const config = Buffer.from(
      JSON.stringify({
        os: 'linux',
        architecture: 'amd64',
        rootfs: { type: 'layers', diff_ids: layers.map((layer) => digestOf(layer)) },
      }),
    );
    const describe = (bytes: Buffer, mediaType: string) => ({
      mediaType,
      digest: this.putBlob(bytes),
      size: bytes.length,
    });
    const bytes = Buffer.from(
      JSON.stringify({
        schemaVersion: 2,
        mediaType: OCI_MANIFEST,
        config: describe(config, OCI_CONFIG),
        layers: layers.map((layer) => describe(layer, OCI_LAYER_TAR)),
      }),
    );
    const digest = this.putManifest(bytes, OCI_MANIFEST, tag);
    return { digest, bytes, config: digestOf(config), layers: layers.map((layer) => digestOf(layer)) };
  }

  putIndex(images: readonly FakeImage[], tag?: string): FakeIndex {
    const architectures = ['amd64', 'arm64', 's390x'];
    const manifests = images.map(({ digest, bytes }, at) => ({
      mediaType: OCI_MANIFEST,
      digest,
      size: bytes.length,
      platform: { os: 'linux', architecture: architectures[at] },
    }));
    const bytes = Buffer.from(JSON.stringify({ schemaVersion: 2, mediaType: OCI_INDEX, manifests }));
    return { digest: this.putManifest(bytes, OCI_INDEX, tag), bytes };
  }

  #answer(request: IncomingMessage, response: ServerResponse): void {
    const { method = '', url = '' } = request;
    const path = url.split('?', 1)[0] ?? '';
    this.requests.push({ method, path, range: request.headers.range });
    if (this.intercept(request, response)) return;
    const [, kind, reference = ''] = /\/(manifests|blobs|referrers|tags)\/([^/]+)$/.exec(path) ?? [];
    if (kind === 'manifests') this.#sendManifest(request, response, reference);
    else if (kind === 'blobs') sendBlob(request, response, this.#blobs.get(reference), reference);
    else if (kind === 'referrers') this.#sendReferrers(response, reference);
    else if (kind === 'tags') this.#sendTags(response);
    else response.writeHead(path === '/v2/' ? 200 : 404).end();
  }

  #sendManifest(request: IncomingMessage, response: ServerResponse, reference: string): void {
    const found = this.#manifests.get(reference);
    if (found === undefined) {
      response.writeHead(404).end();
      return;
    }
    response.writeHead(200, {
      'content-type': found.mediaType,
      'content-length': found.bytes.length,
      'docker-content-digest': digestOf(found.bytes),
    });
    response.end(request.method === 'HEAD' ? undefined : found.bytes);
  }

  #sendReferrers(response: ServerResponse, digest: string): void {
    const manifests = this.#referrers.get(digest) ?? [];
    response.writeHead(200, { 'content-type': OCI_INDEX });
    response.end(JSON.stringify({ schemaVersion: 2, mediaType: OCI_INDEX, manifests }));
  }

  #sendTags(response: ServerResponse): void {
    const tags = [...this.#manifests.keys()].filter((reference) => !reference.includes(':'));
    response.writeHead(200, { 'content-type': 'application/json' });
    response.end(JSON.stringify({ name: 'any', tags }));
  }
}

export interface FakeImage {
  readonly digest: Digest;
  readonly bytes: Buffer;
  readonly config: Digest;
  readonly layers: readonly Digest[];
}

export type FakeIndex = Pick<FakeImage, 'digest' | 'bytes'>;

/** A blob as an honest registry sends it, or a part of it. */
function sendBlob(
  request: IncomingMessage,
  response: ServerResponse,
  bytes: Buffer | undefined,
  digest: string,
): void {
  if (bytes === undefined) {
    response.writeHead(404).end();
    return;
  }
  const [, first, last = ''] = /^bytes=(\d+)-(\d*)$/.exec(request.headers.range ?? '') ?? [];
  const start = Number(first ?? 0);
  const end = last === '' ? bytes.length : Math.min(Number(last) + 1, bytes.length);
  const body = bytes.subarray(start, end);
  const isPart = body.length < bytes.length;
  response.writeHead(isPart ? 206 : 200, {
    'content-length': body.length,
    'docker-content-digest': digest,
    ...(isPart ? { 'content-range': `bytes ${start}-${end - 1}/${bytes.length}` } : {}),
  });
  response.end(request.method === 'HEAD' ? undefined : body);
}
