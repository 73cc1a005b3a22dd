import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach } from 'vitest';
import { digestHex, parseDigest } from '../../src/oci/digest.ts';
import { S3BlobStore } from '../../src/store/s3-blob-store.ts';
import { type S3Server, startS3Server } from './s3-server.ts';

export const MIB = 1024 * 1024;
export const CACHE = { cacheBytes: 64 * MIB };

/** Of the running file. */
export let server: S3Server;
export let directory: string;
/** Of the running test: where in the bucket its stores are. */
export let prefix: string;

let prefixes = 0;
const opened: S3BlobStore[] = [];

/** Gives a file a server, and each test of it a part of the bucket; what {@link another} opens ends with the test. */
export function useS3Stores(): void {
  beforeAll(async () => {
    directory = mkdtempSync(join(tmpdir(), 'dadi-s3-'));
    server = await startS3Server(join(directory, 'server'));
  });
  afterAll(async () => {
    await server.stop();
    rmSync(directory, { recursive: true });
  });
  beforeEach(() => {
    prefix = `part-${prefixes++}/`;
  });
  afterEach(async () => {
    server.intercept = null;
    server.change = null;
    server.requests.length = 0;
    for (const store of opened.splice(0)) await store.close();
  });
}

/** One more store on the test's part of the bucket, as another machine has it, or with the `root` of an earlier one. */
export async function another(
  cacheBytes = CACHE.cacheBytes,
  root = mkdtempSync(join(directory, 'local-')),
): Promise<S3BlobStore> {
  const store = await S3BlobStore.open(root, { ...server.location, prefix }, { cacheBytes });
  opened.push(store);
  return store;
}

/** Below a prefix, or below a store's directory. */
export function keyOf(digest: string, folder = 'blobs'): string {
  const hex = digestHex(parseDigest(digest));
  return `${folder}/sha256/${hex.slice(0, 2)}/${hex}`;
}

/** The server's file of an object. */
export function fileOf(digest: string, folder?: string): string {
  return server.fileOf(`${prefix}${keyOf(digest, folder)}`);
}

/** The requests that the server saw since the test's start. */
export function asked(pattern: RegExp): string[] {
  return server.requests.filter((what) => pattern.test(what));
}

export function flip(path: string): void {
  const bytes = readFileSync(path);
  bytes[bytes.length >> 1]! ^= 1;
  writeFileSync(path, bytes);
}
