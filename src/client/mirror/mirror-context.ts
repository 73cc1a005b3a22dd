import type { IncomingHttpHeaders } from 'node:http';
import type { Logger } from 'pino';
import type { Lane } from '../../oci/registry-connections.ts';
import type { Answer, ServedRequest } from '../../oci/serving/answer.ts';
import type { Caller } from './callers.ts';
import { ownChallenge } from './challenge.ts';
import type { KnownContent } from './known-content.ts';
import type { MirrorTarget } from './mirror-target.ts';
import type { ProxyRelay, RelayedAnswer } from './proxy-relay.ts';
import type { ReadRights } from './read-rights.ts';
import { answerHeaders, relayedAnswer, requestHeaders } from './relayed-answer.ts';

/** Keeps what pulls brought, for reads that happen long after them; `SourceCredentials` is one. */
export interface CredentialsKeeper {
  remember(registry: string, repository: string, authorization: string): void;
}

/** What all routes of the mirror share. */
export interface MirrorContext {
  readonly relay: ProxyRelay;
  readonly rights: ReadRights;
  readonly known: KnownContent;
  readonly credentials: CredentialsKeeper;
  readonly logger: Logger;
}

/** A request for something of a repository. */
export interface Asked {
  readonly target: MirrorTarget;
  readonly caller: Caller;
  readonly request: ServedRequest;
}

/** Asks a proxy on the caller's behalf. @param path below the repository: `blobs/sha256:…` */
export async function askFor(
  { relay, credentials }: Pick<MirrorContext, 'relay' | 'credentials'>,
  { target, caller, request }: Asked,
  path: string,
  options: {
    readonly method: 'GET' | 'HEAD';
    readonly lane: Lane;
    readonly headers: IncomingHttpHeaders;
    readonly signal?: AbortSignal;
  },
): Promise<RelayedAnswer> {
  const { registry, repository } = target;
  const query = new URLSearchParams(request.query);
  query.set('ns', registry);
  const answer = await relay.ask({
    method: options.method,
    path: `v2/${repository}/${path}?${query}`,
    headers: requestHeaders(options.headers, caller.authorization),
    lane: options.lane,
    repository,
    signal: options.signal ?? request.signal,
  });
  const { statusCode } = answer.response;
  if (caller.authorization !== null && statusCode >= 200 && statusCode < 300) {
    credentials.remember(registry, repository, caller.authorization);
  }
  return answer;
}

/** A proxy's answer for the client, whatever it says. */
export async function handBack(
  { response }: RelayedAnswer,
  { method, headers, notes }: ServedRequest,
): Promise<Answer> {
  notes.source = 'upstream';
  const given = answerHeaders(response);
  const challenge = given['www-authenticate'];
  const shown =
    challenge === undefined ? given : { ...given, 'www-authenticate': ownChallenge(challenge, headers.host) };
  if (method !== 'HEAD') return relayedAnswer(response, shown);
  await response.body.dump();
  return { status: response.statusCode, headers: shown, body: null };
}
