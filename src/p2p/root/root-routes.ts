import pLimit from 'p-limit';
import type { z } from 'zod';
import type { Digest } from '../../oci/digest.ts';
import { type Answer, jsonAnswer, type ServedRequest } from '../../oci/serving/answer.ts';
import { READING, type Route } from '../../oci/serving/http-side.ts';
import { RequestError } from '../../oci/serving/request-error.ts';
import { memberIdOf } from '../member-secret.ts';
import {
  type Content,
  type Heartbeat,
  heartbeatSchema,
  joinRequestSchema,
  leaveSchema,
  lostSchema,
  ROOT_PATH,
} from '../mesh-protocol.ts';
import { TokenError } from '../signed-tokens.ts';
import type { MeshRoot } from './mesh-root.ts';
import { MeshRootError, type MeshRootErrorCode } from './mesh-root-error.ts';

/** Who may join which tree. */
export interface MeshRights {
  /**
   * To be awaited before anything of a join is looked at.
   * @throws RequestError UNAUTHORIZED with a challenge, UNAVAILABLE
   */
  admit(request: ServedRequest): Promise<void>;
  /**
   * Whether the caller may read a blob as one of that repository: null, or why not, the same for what there is and what
   * there is not.
   * @throws RequestError UNAUTHORIZED with a challenge, UNAVAILABLE; RegistryError (it cannot be found out now)
   */
  refusal(blob: Digest, where: MeshRepository, request: ServedRequest): Promise<string | null>;
}

/** A repository, as the caller names it. */
export interface MeshRepository {
  readonly repository: string;
  /** The registry that it is of; null: the proxy knows. */
  readonly ns: string | null;
}

export interface RootParts {
  readonly root: MeshRoot;
  readonly rights: MeshRights;
}

const KIB = 1024;
/** 256 contents, each with two digests of SHA-512. */
const MAX_JOIN_BYTES = 128 * KIB;
/** 4096 contents and 8192 edges. */
const MAX_HEARTBEAT_BYTES = 4096 * KIB;
const MAX_LEAVE_BYTES = 1536 * KIB;
const MAX_LOST_BYTES = 4 * KIB;
/** Each may be a question to a registry. */
const CHECKS_AT_ONCE = 16;

/** What a root answers to agents. */
export function rootRoutes(parts: RootParts): readonly Route[] {
  const { root } = parts;
  const post = (name: string, handle: Route['handle'], more: Pick<Route, 'logLevel'> = {}): Route => {
    return { path: `${ROOT_PATH}/${name}`, methods: ['POST'], kind: 'mesh', ...more, handle };
  };
  return [
    post('join', (request) => answerJoin(parts, request)),
    post('heartbeat', (request) => answerHeartbeat(parts, request), { logLevel: 'debug' }),
    post('lost', async (request) => {
      const lost = await read(parts, request, lostSchema, MAX_LOST_BYTES, ({ id }) => id);
      return jsonAnswer(told(() => root.lost(lost)));
    }),
    post('leave', async (request) => {
      root.leave(await read(parts, request, leaveSchema, MAX_LEAVE_BYTES, ({ id }) => id));
      return jsonAnswer({});
    }),
    {
      path: `${ROOT_PATH}/keys`,
      methods: READING,
      kind: 'mesh',
      handle: () => jsonAnswer(root.publicKeys()),
    },
  ];
}

/**
 * For operators. `GET ROOT_PATH` tells of all trees how large they are; `?blob=DIGEST` or `?table=DIGEST` (repeatable) shows
 * those trees member by member.
 */
export function rootStatusRoutes(root: MeshRoot): readonly Route[] {
  const handle = ({ query }: ServedRequest): Answer => {
    const wanted = new Set([...query.getAll('blob'), ...query.getAll('table')]);
    if (wanted.size === 0) return jsonAnswer(root.overview());
    return jsonAnswer({ trees: root.trees(({ blob, table }) => wanted.has(blob) || wanted.has(table)) });
  };
  return [{ path: ROOT_PATH, methods: READING, kind: 'mesh', handle }];
}

async function answerHeartbeat(parts: RootParts, request: ServedRequest): Promise<Answer> {
  const idOf = ({ member }: Heartbeat) => member.id;
  const beat = await read(parts, request, heartbeatSchema, MAX_HEARTBEAT_BYTES, idOf);
  return jsonAnswer(parts.root.heartbeat(beat));
}

async function answerJoin({ root, rights }: RootParts, request: ServedRequest): Promise<Answer> {
  await rights.admit(request);
  const { query } = request;
  const repository = query.get('repository');
  if (repository === null) throw new RequestError('NAME_INVALID', 'the parameter repository is missing');
  const { member, contents, secret } = parse(joinRequestSchema, await request.body.json(MAX_JOIN_BYTES));
  if (memberIdOf(secret) !== member.id) throw new RequestError('DENIED', `${member.id} is another host`);
  const where = { repository, ns: query.get('ns') };
  const limit = pLimit(CHECKS_AT_ONCE);
  const blobs = [...new Set(contents.map(({ blob }) => blob))];
  const refusals = new Map(
    await limit.map(blobs, async (blob) => [blob, await rights.refusal(blob, where, request)] as const),
  );
  const reasonOf = ({ blob }: Content) => refusals.get(blob) ?? null;
  const granted = contents.filter((content) => reasonOf(content) === null);
  const refused = contents.flatMap((content) => {
    const reason = reasonOf(content);
    return reason === null ? [] : [{ ...content, reason }];
  });
  return jsonAnswer({ ...told(() => root.join(member, granted)), refused });
}

/** The body of a request by the member that it names. The session is checked before a byte of it is read. */
async function read<T>(
  { root }: RootParts,
  request: ServedRequest,
  schema: z.ZodType<T>,
  maxBytes: number,
  idOf: (body: T) => string,
): Promise<T> {
  const id = memberOf(root, request);
  const body = parse(schema, await request.body.json(maxBytes));
  if (idOf(body) !== id) throw new RequestError('DENIED', 'the session is that of another member');
  return body;
}

function memberOf(root: MeshRoot, { headers }: ServedRequest): string {
  const session = /^bearer +(\S+)$/i.exec(headers.authorization ?? '')?.[1] ?? '';
  try {
    return root.memberOf(session);
  } catch (error) {
    if (!(error instanceof TokenError)) throw error;
    throw new RequestError('UNAUTHORIZED', `join first: ${error.message}`, {
      headers: { 'www-authenticate': 'Bearer realm="dadi-mesh", error="invalid_token"' },
    });
  }
}

function parse<T>(schema: z.ZodType<T>, body: unknown): T {
  const parsed = schema.safeParse(body);
  if (parsed.success) return parsed.data;
  const [issue] = parsed.error.issues;
  const where = issue?.path.join('.') || 'the body';
  throw new RequestError('NAME_INVALID', `${where}: ${issue?.message ?? 'is wrong'}`);
}

const CODES = {
  ERR_MESH_UNKNOWN_MEMBER: 'NAME_UNKNOWN',
  ERR_MESH_FULL: 'UNAVAILABLE',
  ERR_MESH_NAME_TAKEN: 'DENIED',
} as const satisfies Record<MeshRootErrorCode, string>;

function told<T>(ask: () => T): T {
  try {
    return ask();
  } catch (error) {
    if (error instanceof MeshRootError) throw new RequestError(CODES[error.code], error.message);
    throw error;
  }
}
