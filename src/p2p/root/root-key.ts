import {
  createHash,
  createPrivateKey,
  createPublicKey,
  generateKeyPairSync,
  type KeyObject,
  randomUUID,
} from 'node:crypto';
import { link, mkdir, open, readFile, rm } from 'node:fs/promises';
import { dirname } from 'node:path';
import { z } from 'zod';
import { ConfigError } from '../../config/errors.ts';
import { isSystemError } from '../../format/error-code.ts';
import { peerSchema, type RootKeys } from '../mesh-protocol.ts';
import { type SigningKey, signToken, type VerifyingKeys, verifyToken } from '../signed-tokens.ts';

const sessionSchema = z.object({ sub: peerSchema.shape.id });

/** The key of a root (Ed25519), with which it signs tickets and sessions. Kept in a file, these survive the root's restart. */
export class RootKey implements SigningKey {
  readonly kid: string;
  readonly privateKey: KeyObject;
  readonly #publicKey: KeyObject;
  readonly #x: string;

  private constructor(privateKey: KeyObject) {
    this.privateKey = privateKey;
    this.#publicKey = createPublicKey(privateKey);
    this.#x = this.#publicKey.export({ format: 'jwk' }).x ?? '';
    this.kid = thumbprint(this.#x);
  }

  /** One that ends with the process. */
  static generate(): RootKey {
    return new RootKey(generateKeyPairSync('ed25519').privateKey);
  }

  /**
   * The key in a file, which is made if it is not there: PKCS #8 in PEM, for its owner's eyes only.
   * @throws ConfigError if the file cannot be read, written, or holds something else
   */
  static async open(path: string): Promise<RootKey> {
    try {
      const pem = (await readIfThere(path)) ?? (await create(path));
      const key = createPrivateKey(pem);
      if (key.asymmetricKeyType !== 'ed25519') throw new Error('it is not one of Ed25519');
      return new RootKey(key);
    } catch (cause) {
      const reason = cause instanceof Error ? cause.message : String(cause);
      throw new ConfigError(
        `the mesh's key ${path} cannot be used (${reason}); remove the file for a new one`,
        {
          cause,
        },
      );
    }
  }

  /** For all who check tickets. */
  publicKeys(): RootKeys {
    return { keys: [{ kty: 'OKP', crv: 'Ed25519', kid: this.kid, x: this.#x }] };
  }

  verifyingKeys(): VerifyingKeys {
    return new Map([[this.kid, this.#publicKey]]);
  }

  /** Proves to this root that a request is from this member. */
  session(member: string, endsAtMs: number): string {
    return signToken('dadi-session', { sub: member }, endsAtMs, this);
  }

  /** The member that a session was given to. @throws TokenError */
  memberOf(session: string, nowMs: number): string {
    return verifyToken('dadi-session', session, sessionSchema, this.verifyingKeys(), nowMs).sub;
  }
}

/** RFC 7638 and RFC 8037, 2. */
function thumbprint(x: string): string {
  return createHash('sha256').update(`{"crv":"Ed25519","kty":"OKP","x":"${x}"}`).digest('base64url');
}

async function readIfThere(path: string): Promise<string | null> {
  try {
    return await readFile(path, 'utf8');
  } catch (error) {
    if (isSystemError(error, 'ENOENT')) return null;
    throw error;
  }
}

/** Durable before it is used: what it signed must not be worthless after a loss of power. */
async function create(path: string): Promise<string> {
  const pem = generateKeyPairSync('ed25519').privateKey.export({ format: 'pem', type: 'pkcs8' }).toString();
  await mkdir(dirname(path), { recursive: true });
  const unfinished = `${path}.${randomUUID()}.new`;
  const file = await open(unfinished, 'wx', 0o600);
  try {
    await file.writeFile(pem);
    await file.sync();
  } finally {
    await file.close();
  }
  try {
    // Fails if another process was faster: then that one's counts.
    await link(unfinished, path);
    return pem;
  } catch (error) {
    if (isSystemError(error, 'EEXIST')) return await readFile(path, 'utf8');
    throw error;
  } finally {
    await rm(unfinished);
  }
}
