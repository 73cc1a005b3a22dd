export type MeshRootErrorCode =
  /** The root does not know the member in that tree: it has to be joined again. */
  | 'ERR_MESH_UNKNOWN_MEMBER'
  /** The root has as many as it takes. */
  | 'ERR_MESH_FULL'
  /** There is a member with that name at another address. */
  | 'ERR_MESH_NAME_TAKEN';

/** A member that the root cannot help. */
export class MeshRootError extends Error {
  override readonly name = 'MeshRootError';
  readonly code: MeshRootErrorCode;

  constructor(code: MeshRootErrorCode, message: string) {
    super(message);
    this.code = code;
  }
}
