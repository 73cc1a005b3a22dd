import { expect, test } from 'vitest';
import { signedSchema1Payload } from './schema1.ts';

const unsigned = Buffer.from('{\n   "schemaVersion": 1,\n   "name": "é"\n}');
// What stands in front of the closing brace, and how it went on.
const formatLength = unsigned.length - 2;

function signed(header: object): Buffer {
  const text = Buffer.from(JSON.stringify(header)).toString('base64url');
  const signatures = [{ protected: text, signature: 'x' }];
  const rest = `,\n   "signatures": ${JSON.stringify(signatures)}\n}`;
  return Buffer.concat([unsigned.subarray(0, formatLength), Buffer.from(rest)]);
}

test('the payload of a signed manifest is the manifest as it was without its signatures', () => {
  const formatTail = unsigned.subarray(formatLength).toString('base64url');
  expect(signedSchema1Payload(signed({ formatLength, formatTail }))).toEqual(unsigned);
});

test('what is not signed, or says nothing of use about it, has none', () => {
  expect(signedSchema1Payload(unsigned)).toBeNull();
  expect(signedSchema1Payload(signed({ formatLength: -1, formatTail: '' }))).toBeNull();
  expect(signedSchema1Payload(signed({}))).toBeNull();
  expect(signedSchema1Payload(Buffer.from('{"signatures":[{"protected":"!"}]}'))).toBeNull();
  expect(signedSchema1Payload(Buffer.from('no JSON'))).toBeNull();
});
