import type { IncomingHttpHeaders } from 'node:http';
import { pipeline } from 'node:stream/promises';
import { discard, type HttpResponse, header } from '../../oci/registry-http.ts';
import type { Answer } from '../../oci/serving/answer.ts';

/** What a client's request says to whoever has the content. */
const HANDED_ON = ['accept', 'if-none-match', 'if-match', 'range', 'if-range'] as const;
/** What an answer says to clients, beside `OCI-…`. */
const HANDED_BACK: ReadonlySet<string> = new Set([
  ...['content-type', 'content-length', 'content-range', 'accept-ranges', 'docker-content-digest', 'etag'],
  ...['link', 'vary', 'warning', 'retry-after', 'cache-control', 'www-authenticate'],
]);
/** distribution-spec, "Registry Proxying": ours to say. */
const OCI_NAMESPACE = 'oci-namespace';

/** Headers of a request as the proxy is to see them. */
export function requestHeaders(
  headers: IncomingHttpHeaders,
  authorization: string | null,
): Record<string, string> {
  const found: Record<string, string> = {};
  for (const name of HANDED_ON) {
    const value = headers[name];
    if (value !== undefined) found[name] = String(value);
  }
  return authorization === null ? found : { ...found, authorization };
}

/** Headers of an answer as the client is to see them. */
export function answerHeaders(response: HttpResponse): Record<string, string> {
  const found: Record<string, string> = {};
  for (const name of Object.keys(response.headers)) {
    const isOci = name.startsWith('oci-') && name !== OCI_NAMESPACE;
    if (!isOci && !HANDED_BACK.has(name)) continue;
    const all = response.headers[name];
    const value = Array.isArray(all) ? all.join(', ') : header(response, name);
    if (value !== null) found[name] = value;
  }
  return found;
}

/** An answer as it comes, no faster than the client takes it. */
export function relayedAnswer(response: HttpResponse, headers = answerHeaders(response)): Answer {
  const { statusCode: status, body } = response;
  return {
    status,
    headers,
    body: {
      send: (outgoing, signal) => pipeline(body, outgoing, { signal }),
      close: async () => discard(body),
    },
  };
}
