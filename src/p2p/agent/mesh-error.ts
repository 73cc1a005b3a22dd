export type MeshErrorCode =
  /** Peers would not be safe from each other as this host is set up. */
  | 'ERR_MESH_SECURITY'
  /** An address that others cannot reach. */
  | 'ERR_MESH_ADDRESS';

/** A host that cannot be in the mesh as it is set up. */
export class MeshError extends Error {
  override readonly name = 'MeshError';
  readonly code: MeshErrorCode;

  constructor(code: MeshErrorCode, message: string, options?: ErrorOptions) {
    super(message, options);
    this.code = code;
  }
}
