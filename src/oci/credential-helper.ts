import { spawn } from 'node:child_process';
import { once } from 'node:events';
import process from 'node:process';
import { z } from 'zod';
import type { Secret } from './credentials.ts';
import { OciError } from './errors.ts';

const DEFAULT_TIMEOUT_MS = 15_000;
const MAX_OUTPUT_BYTES = 1024 * 1024;
const NAME_PATTERN = /^[A-Za-z0-9][A-Za-z0-9._-]*$/;
/** In place of a user's name: the secret is an identity token. */
const TOKEN_USERNAME = '<token>';
/** What helpers say where they know nobody; there is no status for it. */
const NOT_FOUND = /credentials not found/i;

const answerSchema = z.object({ Username: z.string(), Secret: z.string() });

/** Whether a name can be that of a program `docker-credential-NAME`. */
export function isHelperName(name: string): boolean {
  return NAME_PATTERN.test(name);
}

/**
 * Asks `docker-credential-NAME get` for a registry's credentials (docker-credential-helpers, "Development"): the
 * server on its standard input, JSON or a message on its standard output. Null if it knows none.
 * @param server as the helper knows it: a host, for Docker Hub `https://index.docker.io/v1/`
 * @throws OciError ERR_CREDENTIALS that names the program
 */
export async function askCredentialHelper(
  name: string,
  server: string,
  { timeoutMs = DEFAULT_TIMEOUT_MS }: { readonly timeoutMs?: number } = {},
): Promise<Secret | null> {
  const command = `docker-credential-${name}`;
  const fail = (what: string, cause?: unknown) =>
    new OciError('ERR_CREDENTIALS', `the credential helper ${command} ${what}`, { cause });
  if (!isHelperName(name)) throw fail('cannot exist: that is no name of a program');
  const { output, status } = await runHelper(command, server, timeoutMs, fail);
  const text = output.trim();
  if (status !== 0) {
    if (NOT_FOUND.test(text)) return null;
    throw fail(`failed for ${server} (status ${status}): ${text.slice(0, 500) || 'it said nothing'}`);
  }
  const parsed = answerSchema.safeParse(parseOrNull(text));
  if (!parsed.success) throw fail(`gave no credentials for ${server} that can be read; run it by hand`);
  const { Username: username, Secret: secret } = parsed.data;
  if (username === TOKEN_USERNAME) return { kind: 'identity-token', token: secret };
  return username === '' && secret === '' ? null : { kind: 'password', username, password: secret };
}

async function runHelper(
  command: string,
  input: string,
  timeoutMs: number,
  fail: (what: string, cause?: unknown) => OciError,
): Promise<{ output: string; status: number | null }> {
  // A group of its own, so that what it has started ends with it.
  const child = spawn(command, ['get'], { stdio: ['pipe', 'pipe', 'ignore'], detached: true });
  let output = '';
  let refusal: OciError | null = null;
  const stop = (what: string) => {
    refusal ??= fail(what);
    child.stdout.destroy();
    if (child.pid !== undefined) killGroup(child.pid);
  };
  child.stdout.setEncoding('utf8').on('data', (piece: string) => {
    output += piece;
    if (output.length > MAX_OUTPUT_BYTES) stop(`wrote more than ${MAX_OUTPUT_BYTES} bytes`);
  });
  // It may end without reading.
  child.stdin.on('error', () => {}).end(input);
  const timer = setTimeout(() => stop(`did not answer within ${timeoutMs / 1000} s`), timeoutMs);
  try {
    const [status] = (await once(child, 'close')) as [number | null];
    if (refusal !== null) throw refusal;
    return { output, status };
  } catch (cause) {
    if (cause === refusal) throw cause;
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw fail(`cannot be run (${reason}); install it where PATH finds it`, cause);
  } finally {
    clearTimeout(timer);
  }
}

function killGroup(pid: number): void {
  try {
    process.kill(-pid, 'SIGKILL');
  } catch {
    // It has ended.
  }
}

function parseOrNull(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}
