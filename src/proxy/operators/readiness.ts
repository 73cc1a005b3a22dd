import { digestOf } from '../../oci/digest.ts';
import { type Answer, jsonAnswer } from '../../oci/serving/answer.ts';
import type { BlobStore } from '../../store/blob-store.ts';
import type { Catalog } from '../../store/catalog.ts';
import { StoreError } from '../../store/errors.ts';

/** Probes come often and from many: the parts are asked this often at most. */
const KEPT_MS = 1_000;
const CHECK_MS = 5_000;

const PROBE = Buffer.from('ready?');

/** One thing that has to work before requests should come here. */
export interface Check {
  readonly name: string;
  readonly isOk: boolean;
  readonly message: string | null;
}

/** Whether the proxy should be sent requests. */
export class Readiness {
  readonly #store: Pick<BlobStore, 'writer'>;
  readonly #catalog: Pick<Catalog, 'manifestMediaType'>;
  #isStopping = false;
  #checked: { readonly atMs: number; readonly checks: Promise<readonly Check[]> } | null = null;

  constructor(parts: { store: Pick<BlobStore, 'writer'>; catalog: Pick<Catalog, 'manifestMediaType'> }) {
    this.#store = parts.store;
    this.#catalog = parts.catalog;
  }

  /** From now on it is not ready: whoever distributes requests should look elsewhere. */
  stopping(): void {
    this.#isStopping = true;
  }

  /** How each part is. */
  async checks(): Promise<readonly Check[]> {
    const running = { name: 'running', isOk: !this.#isStopping, message: this.#isStopping ? STOPPING : null };
    return [running, ...(await this.#parts())];
  }

  #parts(): Promise<readonly Check[]> {
    const nowMs = performance.now();
    if (this.#checked === null || nowMs - this.#checked.atMs > KEPT_MS) {
      const checks = Promise.all([
        check('store', () => this.#writeStore()),
        check('catalog', async () => {
          await this.#catalog.manifestMediaType(digestOf(PROBE));
          return null;
        }),
      ]);
      this.#checked = { atMs: nowMs, checks };
    }
    return this.#checked.checks;
  }

  /** What is kept can still be served from a full disk, and the rest passed through: that is ready. */
  async #writeStore(): Promise<string | null> {
    try {
      const writer = await this.#store.writer(null);
      await writer.write(PROBE).finally(() => writer.abort());
      return null;
    } catch (error) {
      if (error instanceof StoreError && error.code === 'ERR_STORE_FULL') return `degraded: ${error.message}`;
      throw error;
    }
  }
}

const STOPPING = 'the proxy is being stopped';

async function check(name: string, attempt: () => Promise<string | null>): Promise<Check> {
  const { promise: late, reject } = Promise.withResolvers<never>();
  const timer = setTimeout(() => reject(new Error(`no answer within ${CHECK_MS / 1000} s`)), CHECK_MS);
  try {
    return { name, isOk: true, message: await Promise.race([attempt(), late]) };
  } catch (error) {
    return { name, isOk: false, message: error instanceof Error ? error.message : String(error) };
  } finally {
    clearTimeout(timer);
  }
}

/** GET /readyz: 200 or 503, and why. */
export async function answerReadiness(readiness: Readiness): Promise<Answer> {
  const checks = await readiness.checks();
  const answer = jsonAnswer({ status: isReady(checks) ? 'ready' : 'not ready', checks });
  return { ...answer, status: isReady(checks) ? 200 : 503 };
}

export function isReady(checks: readonly Check[]): boolean {
  return checks.every(({ isOk }) => isOk);
}
