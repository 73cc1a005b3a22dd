import { createHmac, randomBytes } from 'node:crypto';
import { hash, verify } from '@node-rs/bcrypt';
import { LRUCache } from 'lru-cache';
import pLimit from 'p-limit';
import type { Credentials } from '../../oci/credentials.ts';
import type { ServedRequest } from '../../oci/serving/answer.ts';
import { RequestError } from '../../oci/serving/request-error.ts';
import type { RepositoryName } from '../../store/catalog.ts';
import { callerOf } from '../http/caller.ts';
import { SingleFlight } from '../http/single-flight.ts';
import type { Target } from '../upstream/upstreams.ts';
import { OpenAccess } from './access.ts';
import { type Passwords, readHtpasswd } from './htpasswd.ts';

/** How long a password that was right is not checked again. */
const VERDICT_TTL_MS = 60_000;
const MAX_VERDICTS = 10_000;
/** The threads that compare passwords also read files: guesses must leave some of them. */
const CONCURRENT_CHECKS = 2;
const MAX_WAITING_CHECKS = 100;
const BUSY_RETRY_SECONDS = '1';

/** Open to those who stand in a password file. */
export class BasicAccess extends OpenAccess {
  readonly #path: string;
  readonly #salt = randomBytes(32);
  readonly #right = new LRUCache<string, true>({ max: MAX_VERDICTS, ttl: VERDICT_TTL_MS });
  readonly #checks = new SingleFlight<boolean>();
  readonly #limit = pLimit(CONCURRENT_CHECKS);
  #passwords: Passwords;
  /** Compared with for users that there are not, so that these take the same time. */
  #nobody: string;

  private constructor(
    path: string,
    passwords: Passwords,
    nobody: string,
    own: (where: RepositoryName) => Target,
  ) {
    super(own);
    this.#path = path;
    this.#passwords = passwords;
    this.#nobody = nobody;
  }

  /**
   * @param own the target with the proxy's own client
   * @throws ConfigError that names file, line and remedy
   */
  static async open(path: string, own: (where: RepositoryName) => Target): Promise<BasicAccess> {
    const passwords = await readHtpasswd(path);
    return new BasicAccess(path, passwords, await hashOfNobody(passwords), own);
  }

  /**
   * Reads the file again; verdicts on the old one are forgotten.
   * @throws ConfigError: what was read before holds on
   */
  async reload(): Promise<void> {
    const passwords = await readHtpasswd(this.#path);
    this.#nobody = await hashOfNobody(passwords);
    this.#passwords = passwords;
    this.#right.clear();
  }

  override async admit({ headers }: ServedRequest): Promise<void> {
    const caller = callerOf(headers);
    if (caller?.kind === 'basic' && (await this.#isRight(caller.credentials))) return;
    throw new RequestError('UNAUTHORIZED', 'this mirror wants to know who asks: log in to it', {
      headers: { 'www-authenticate': 'Basic realm="dadi-mirror", charset="UTF-8"' },
    });
  }

  async #isRight({ username, password }: Credentials): Promise<boolean> {
    const passwords = this.#passwords;
    const key = createHmac('sha256', this.#salt).update(`${username}:${password}`).digest('base64');
    if (this.#right.has(key)) return true;
    const isRight = await this.#checks.run(key, () => this.#compare(passwords, username, password));
    // Not if it is the verdict on a file that holds no longer.
    if (isRight && passwords === this.#passwords) this.#right.set(key, true);
    return isRight;
  }

  #compare(passwords: Passwords, username: string, password: string): Promise<boolean> {
    if (this.#limit.pendingCount >= MAX_WAITING_CHECKS) {
      throw new RequestError('UNAVAILABLE', 'too many passwords are being checked; try again soon', {
        headers: { 'retry-after': BUSY_RETRY_SECONDS },
      });
    }
    const known = passwords.get(username);
    return this.#limit(async () => (await verify(password, known ?? this.#nobody)) && known !== undefined);
  }
}

/** Nobody's password, at the highest cost in the file. */
async function hashOfNobody(passwords: Passwords): Promise<string> {
  const costs = [...passwords.values()].map((one) => Number(one.split('$')[2]));
  return hash(randomBytes(24), { cost: Math.max(...costs) });
}
