import { z } from 'zod';
import { readUpTo } from '../../oci/registry-http.ts';
import { type Answer, bufferAnswer, type ServedRequest } from '../../oci/serving/answer.ts';
import type { Callers } from './callers.ts';
import { TOKEN_PATH } from './challenge.ts';
import { handBack } from './mirror-context.ts';
import type { ProxyRelay } from './proxy-relay.ts';
import { answerHeaders } from './relayed-answer.ts';

const MAX_ANSWER_BYTES = 1024 * 1024;
/** Docker's "Token Authentication Specification": what holds for tokens that do not say. */
const DEFAULT_LIFETIME_SECONDS = 60;

const answerSchema = z.object({
  token: z.string().optional(),
  access_token: z.string().optional(),
  expires_in: z.number().positive().optional(),
});

/** GET of a token, for credentials or none: a proxy's own, whose holder is noted. */
export async function answerToken(
  relay: ProxyRelay,
  callers: Callers,
  request: ServedRequest,
): Promise<Answer> {
  const { authorization } = request.headers;
  const answer = await relay.ask({
    method: request.method === 'HEAD' ? 'HEAD' : 'GET',
    path: `${TOKEN_PATH.slice(1)}?${request.query}`,
    headers: authorization === undefined ? {} : { authorization },
    lane: 'small',
    repository: null,
    signal: request.signal,
  });
  const { response, host } = answer;
  if (request.method === 'HEAD' || response.statusCode !== 200) return handBack(answer, request);
  const bytes = await readUpTo(response.body, MAX_ANSWER_BYTES, { host, repository: null, reference: null });
  if (authorization !== undefined) {
    const { token, access_token, expires_in = DEFAULT_LIFETIME_SECONDS } = parse(bytes);
    const given = token ?? access_token;
    if (given !== undefined) callers.tokenGiven(given, authorization, expires_in * 1000);
  }
  return bufferAnswer(200, bytes, answerHeaders(response));
}

function parse(bytes: Buffer): z.infer<typeof answerSchema> {
  try {
    return answerSchema.parse(JSON.parse(bytes.toString('utf8')));
  } catch {
    return {};
  }
}
