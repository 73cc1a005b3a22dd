import type { Digest } from '../../oci/digest.ts';
import type { Answer } from '../../oci/serving/answer.ts';
import { type Asked, askFor, handBack, type MirrorContext } from './mirror-context.ts';

/** Null if a proxy lets the caller read a blob of this repository; else its answer. @throws ProxiesAwayError */
export async function askForRight(
  context: MirrorContext,
  asked: Asked,
  digest: Digest,
): Promise<Answer | null> {
  const path = `blobs/${digest}`;
  const answer = await askFor(context, asked, path, { method: 'HEAD', lane: 'small', headers: {} });
  if (answer.response.statusCode === 200) {
    await answer.response.body.dump();
    context.rights.grant(asked.caller, asked.target, digest);
    return null;
  }
  if (asked.request.method === 'HEAD') return handBack(answer, asked.request);
  await answer.response.body.dump();
  // An answer to HEAD does not say what is wrong.
  return handBack(
    await askFor(context, asked, path, { method: 'GET', lane: 'bulk', headers: {} }),
    asked.request,
  );
}
