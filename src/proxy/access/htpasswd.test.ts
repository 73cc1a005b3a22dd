import { expect, test } from 'vitest';
import { parseHtpasswd } from './htpasswd.ts';

const HASH = '$2y$05$Zc8OOnpDZTBqgOlxUGi9I.1J1YqZRlb9Kyc.3YtRbJdxfMePqzCHW';

test('users of a password file, without comments and empty lines', () => {
  const passwords = parseHtpasswd(`# people\n\nalice:${HASH}\r\nbob:${HASH.replace('2y', '2b')}\n`, 'p');
  expect([...passwords.keys()]).toEqual(['alice', 'bob']);
  expect(passwords.get('alice')).toBe(HASH);
});

test.each([
  ['alice:$apr1$x$yyyyyyyyyyyyyyyyyyyyyy', /line 1.*not hashed with bcrypt.*htpasswd -B/],
  ['alice:{SHA}fEqNCco3Yq9h5ZUglD3CZJT4lBs=', /not hashed with bcrypt/],
  ['alice:plain', /not hashed with bcrypt/],
  [`bob:${HASH}\nalice`, /line 2.*USER:HASH/],
  [`:${HASH}`, /USER:HASH/],
  [`alice:${HASH.replace('$05$', '$31$')}`, /cost.*over 15/],
  ['# nobody\n', /holds no user/],
])('%j is refused with what to do', (text, message) => {
  expect(() => parseHtpasswd(text, 'passwords')).toThrow(message);
  expect(() => parseHtpasswd(text, 'passwords')).toThrow(/access.htpasswd: passwords/);
});
