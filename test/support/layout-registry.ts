import { open } from 'node:fs/promises';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import { isDigest } from '../../src/oci/digest.ts';
import type { ImageLayout } from '../../src/oci/image-layout.ts';
import type { Descriptor } from '../../src/oci/manifest.ts';
import { OCI_INDEX, OCI_MANIFEST } from '../../src/oci/media-types.ts';

/** A registry on loopback that serves what an image layout holds, and can be made to fail. */
export interface LayoutRegistry {
  /** `127.0.0.1:PORT` */
  readonly host: string;
  /** Paths of the requests so far. */
  readonly requests: string[];
  /** Bodies of `/dadi/v1/conversions/<digest>`, by digest; there are none at first. */
  readonly conversions: Map<string, unknown>;
  /** What the referrers API names, for any subject. */
  readonly referrers: Descriptor[];
  /** Changes the bytes of each answered blob, range of a blob, and manifest. */
  damage: ((name: string, offset: number, bytes: Buffer) => void) | null;
  /** Refuses connections from now on, until `resume`. */
  close(): Promise<void>;
  /** Listens again, at the same port. */
  resume(): Promise<void>;
}

export async function serveLayout(layout: ImageLayout, repository: string): Promise<LayoutRegistry> {
  const requests: string[] = [];
  const conversions = new Map<string, unknown>();
  const referrers: Descriptor[] = [];
  const registry = { host: '', requests, conversions, referrers, damage: null as LayoutRegistry['damage'] };

  const manifest = async (reference: string) => {
    if (!isDigest(reference)) return layout.resolve(reference);
    return { descriptor: null, bytes: await layout.readBlob(reference) };
  };

  const answer = async (incoming: IncomingMessage, outgoing: ServerResponse): Promise<void> => {
    const url = incoming.url ?? '';
    requests.push(url);
    const [kind, name = ''] = url.replace(`/v2/${repository}/`, '').split('/');
    if (url.startsWith('/dadi/v1/conversions/')) {
      const status = conversions.get(url.split('/').at(-1) ?? '');
      if (status === undefined) outgoing.writeHead(404).end();
      else outgoing.end(JSON.stringify(status));
    } else if (kind === 'manifests') {
      const { bytes, descriptor } = await manifest(name);
      const { mediaType = descriptor?.mediaType } = JSON.parse(bytes.toString());
      registry.damage?.(name, 0, bytes);
      outgoing.writeHead(200, { 'content-type': mediaType ?? OCI_MANIFEST }).end(bytes);
    } else if (kind === 'referrers') {
      const index = { schemaVersion: 2, mediaType: OCI_INDEX, manifests: referrers };
      outgoing.writeHead(200, { 'content-type': OCI_INDEX }).end(JSON.stringify(index));
    } else if (kind === 'blobs' && isDigest(name)) {
      const file = await open(layout.blobPath(name));
      const { size } = await file.stat();
      const range = /^bytes=(\d+)-(\d+)$/.exec(incoming.headers.range ?? '');
      const start = Number(range?.[1] ?? 0);
      const end = Math.min(size - 1, Number(range?.[2] ?? size - 1));
      const bytes = Buffer.alloc(end - start + 1);
      await file.read(bytes, 0, bytes.length, start);
      await file.close();
      registry.damage?.(name, start, bytes);
      const headers = { 'content-length': bytes.length, 'content-range': `bytes ${start}-${end}/${size}` };
      outgoing.writeHead(range === null ? 200 : 206, headers).end(bytes);
    } else outgoing.writeHead(404).end();
  };

  const server = createServer((incoming, outgoing) => {
    answer(incoming, outgoing).catch(() => outgoing.writeHead(404).end());
  });
  const listen = (port: number) => new Promise<void>((resolve) => server.listen(port, '127.0.0.1', resolve));
  await listen(0);
  const address = server.address();
  if (address === null || typeof address === 'string') throw new Error('no port');
  registry.host = `127.0.0.1:${address.port}`;
  return Object.assign(registry, {
    resume: () => listen(address.port),
    close: () =>
      new Promise<void>((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  });
}
