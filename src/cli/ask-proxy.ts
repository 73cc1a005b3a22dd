import { Option } from 'commander';
import { request } from 'undici';
import { parseErrorBody } from '../oci/errors.ts';
import { httpUrl } from './arguments.ts';

const DEFAULT_ADMIN = new URL('http://127.0.0.1:5101');
const TIMEOUT_MS = 10_000;

/** `--proxy`, of all commands that ask a proxy as an operator. */
export function proxyOption(): Option {
  return new Option('--proxy <url>', 'where the proxy answers operators')
    .env('DADI_PROXY_ADMIN')
    .default(DEFAULT_ADMIN, DEFAULT_ADMIN.href)
    .argParser(httpUrl);
}

/** The proxy's JSON. Rejects with an error that names the proxy and what it said. */
export async function askProxy(
  proxy: URL,
  method: 'GET' | 'POST' | 'DELETE',
  path: string,
  timeoutMs = TIMEOUT_MS,
): Promise<unknown> {
  const url = new URL(path, proxy.href.endsWith('/') ? proxy : `${proxy.href}/`);
  let text: string;
  let status: number;
  try {
    const answer = await request(url, { method, signal: AbortSignal.timeout(timeoutMs) });
    status = answer.statusCode;
    text = await answer.body.text();
  } catch (cause) {
    throw new Error(`cannot ask the proxy at ${proxy.href}; does it run, and is --proxy its admin address?`, {
      cause,
    });
  }
  if (status >= 300) {
    const reason = parseErrorBody(text)[0]?.message ?? text.slice(0, 200);
    throw new Error(`the proxy at ${proxy.href} answers ${status}: ${reason}`);
  }
  return JSON.parse(text);
}
