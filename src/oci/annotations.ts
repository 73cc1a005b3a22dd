/** The `artifactType` of a manifest or index that holds another one's content as overlaybd layers. */
export const OVERLAYBD_ARTIFACT_TYPE = 'application/vnd.containerd.overlaybd.native.v1+json';

/** On an overlaybd layer: version of the format. */
export const OVERLAYBD_VERSION_ANNOTATION = 'containerd.io/snapshot/overlaybd/version';
export const OVERLAYBD_VERSION = '0.1.0';
/** On an overlaybd layer: digest of the blob itself. */
export const OVERLAYBD_BLOB_DIGEST_ANNOTATION = 'containerd.io/snapshot/overlaybd/blob-digest';
/** On an overlaybd layer: bytes of the blob itself, in decimal. */
export const OVERLAYBD_BLOB_SIZE_ANNOTATION = 'containerd.io/snapshot/overlaybd/blob-size';
/** On a layer: digest of the blob that holds the layer's chunk table. */
export const CHUNK_TABLE_DIGEST_ANNOTATION = 'org.dadi-mirror.chunk-table.digest';
/** On a manifest or an index: the conversion profile that decided the bytes. */
export const PROFILE_ANNOTATION = 'org.dadi-mirror.profile';

/** In an image layout's index: the tag. */
export const REF_NAME_ANNOTATION = 'org.opencontainers.image.ref.name';

/** In an index: what a manifest that is no image is there for; BuildKit's attestations carry the value below. */
export const DOCKER_REFERENCE_TYPE_ANNOTATION = 'vnd.docker.reference.type';
export const DOCKER_REFERENCE_TYPE_ATTESTATION = 'attestation-manifest';
