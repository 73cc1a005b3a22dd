/**
 * Environment of a client that is to reach this machine only: what it would fetch by https from elsewhere (the registry
 * that images are named after) it asks a proxy for that is not there. Nor does it ask a name server.
 */
export const NOWHERE = { HTTP_PROXY: '', HTTPS_PROXY: 'http://127.0.0.1:9', NO_PROXY: '127.0.0.1' } as const;
