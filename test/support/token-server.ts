import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import { text } from 'node:stream/consumers';
import { importPKCS8, SignJWT } from 'jose';

/** Somebody who may have tokens. */
export interface Account {
  readonly username: string;
  readonly password: string;
  /** Good for tokens, too, by the form of OAuth2 that Distribution describes. */
  readonly refreshToken?: string;
  /** What the repositories' names begin with that it may read and write; all if left out. */
  readonly repositories?: string;
}

export interface TokenServerOptions {
  readonly service: string;
  readonly issuer: string;
  readonly accounts: readonly Account[];
  /** What the repositories' names begin with that anybody may read; without it, those with an account only get tokens. */
  readonly publicRepositories?: string | undefined;
  /** PEM files of an RSA key and its certificate, which the registry trusts. */
  readonly keyPath: string;
  readonly certificatePath: string;
}

export interface TokenServer {
  /** The realm that the registry names in its challenge. */
  readonly url: string;
  stop(): Promise<void>;
}

/** Gives tokens for a registry (Distribution, "Token Authentication Specification"), with the rights of who asks. */
export async function startTokenServer(options: TokenServerOptions): Promise<TokenServer> {
  const key = await importPKCS8(readFileSync(options.keyPath, 'utf8'), 'RS256');
  const certificate = readFileSync(options.certificatePath, 'utf8').replace(/-----[^-]+-----|\s/g, '');
  const answer = async (request: IncomingMessage, response: ServerResponse) => {
    const isForm = request.method === 'POST';
    const query = isForm
      ? new URLSearchParams(await text(request))
      : new URL(request.url ?? '/', 'http://token').searchParams;
    const asking = askingOf(isForm ? query : request.headers.authorization, options);
    if (asking === null || query.get('service') !== options.service) {
      response.writeHead(401, { 'www-authenticate': 'Basic realm="tokens"' }).end();
      return;
    }
    const access = scopesOf(query).flatMap((scope) => {
      const isAllowed = (action: string) => asking.mayDo(scope.name, action);
      return { ...scope, actions: scope.actions.filter(isAllowed) };
    });
    const token = await new SignJWT({ access: access.filter(({ actions }) => actions.length > 0) })
      .setProtectedHeader({ alg: 'RS256', x5c: [certificate] })
      .setIssuer(options.issuer)
      .setSubject(asking.username)
      .setAudience(options.service)
      .setJti(randomUUID())
      .setIssuedAt()
      .setNotBefore('0s')
      .setExpirationTime('5m')
      .sign(key);
    response.writeHead(200, { 'content-type': 'application/json' });
    response.end(JSON.stringify({ [isForm ? 'access_token' : 'token']: token, expires_in: 300 }));
  };
  const server = createServer((request, response) => {
    answer(request, response).catch((error: unknown) => response.writeHead(500).end(String(error)));
  }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  if (address === null || typeof address === 'string') throw new Error('a TCP server has no port');
  return {
    url: `http://127.0.0.1:${address.port}/token`,
    stop: async () => {
      server.closeAllConnections();
      server.close();
      await once(server, 'close');
    },
  };
}

function scopesOf(query: URLSearchParams) {
  return query.getAll('scope').flatMap((scopes) => scopes.split(' ').flatMap(parseScope));
}

interface Asking {
  readonly username: string;
  mayDo(repository: string, action: string): boolean;
}

/** By a form with a refresh token, or by the header `Authorization`. Null for who gets no tokens at all. */
function askingOf(
  shown: URLSearchParams | string | undefined,
  { accounts, publicRepositories }: TokenServerOptions,
): Asking | null {
  const isPublic = (repository: string) =>
    publicRepositories !== undefined && repository.startsWith(publicRepositories);
  if (shown === undefined && publicRepositories !== undefined) {
    return { username: '', mayDo: (repository, action) => isPublic(repository) && action === 'pull' };
  }
  const account = accounts.find(({ username, password, refreshToken }) => {
    if (typeof shown === 'string')
      return shown === `Basic ${Buffer.from(`${username}:${password}`).toString('base64')}`;
    if (shown?.get('grant_type') !== 'refresh_token' || refreshToken === undefined) return false;
    return shown.get('refresh_token') === refreshToken;
  });
  if (account === undefined) return null;
  const { username, repositories = '' } = account;
  const mayDo = (repository: string, action: string) =>
    repository.startsWith(repositories) || (isPublic(repository) && action === 'pull');
  return { username, mayDo };
}

/** "repository:lib/py:pull,push" → an entry of the token's access list. */
function parseScope(scope: string): { type: string; name: string; actions: string[] }[] {
  const match = /^(\w+):(.+):([\w,*]+)$/.exec(scope);
  if (match === null) return [];
  return [{ type: match[1]!, name: match[2]!, actions: match[3]!.split(',') }];
}
