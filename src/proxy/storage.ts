import { z } from 'zod';
import type { BlobStore } from '../store/blob-store.ts';
import { DirectoryBlobStore } from '../store/directory-blob-store.ts';

const MIB = 1024 * 1024;

/** Downloads go on a little longer than conversions, which are there for them. */
const minFreeBytes = z
  .int()
  .nonnegative()
  .default(256 * MIB);

/** Where blobs are kept. */
export const storage = z
  .discriminatedUnion('kind', [
    z.strictObject({ kind: z.literal('directory'), minFreeBytes }),
    z.strictObject({
      kind: z.literal('s3'),
      bucket: z
        .string()
        .regex(/^[a-z0-9][a-z0-9._-]{1,62}$/, 'write the name of a bucket, for example images'),
      /** In front of all keys. */
      prefix: z
        .string()
        .regex(/^[\w!.*'()/-]*$/, 'write letters, digits and slashes, for example dadi/')
        .default('')
        .transform((text) => (text === '' || text.endsWith('/') ? text : `${text}/`)),
      /** Of a server that is not Amazon's. */
      endpoint: z
        .url({ protocol: /^https?$/, error: 'write a URL, for example https://s3.example.com' })
        .optional(),
      region: z.string().min(1, 'write a region, for example eu-central-1').default('us-east-1'),
      /** The bucket in the path instead of the host name; so if there is an endpoint, unless it is said here. */
      pathStyle: z.boolean().optional(),
      /** Otherwise what the environment, the shared files or the machine's role give. */
      credentials: z
        .strictObject({
          accessKeyId: z.string().min(1),
          secretAccessKey: z.string().min(1),
          sessionToken: z.string().min(1).optional(),
        })
        .optional(),
      /** What local copies may take in the data directory. */
      cacheBytes: z
        .int()
        .positive()
        .default(10 * 1024 * MIB),
      minFreeBytes,
    }),
  ])
  .prefault({ kind: 'directory' });

type StorageConfig = z.output<typeof storage>;

/**
 * Opens the store that the configuration names. What is not finished, and local copies, are in the data directory,
 * which is locked.
 * @throws StoreError ERR_STORE_LOCKED, ERR_STORE_IO
 */
export async function openBlobStore(config: {
  readonly dataDirectory: string;
  readonly storage: StorageConfig;
}): Promise<BlobStore> {
  const { dataDirectory, storage } = config;
  if (storage.kind === 'directory') return DirectoryBlobStore.open(dataDirectory, storage);
  const { pathStyle = storage.endpoint !== undefined, cacheBytes, minFreeBytes, ...location } = storage;
  // Its library is large, and few need it.
  const { S3BlobStore } = await import('../store/s3-blob-store.ts');
  return S3BlobStore.open(dataDirectory, { ...location, pathStyle }, { cacheBytes, minFreeBytes });
}
