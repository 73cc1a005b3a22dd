import { expect, test } from 'vitest';
import { distributionError, parseErrorBody, RegistryError } from './errors.ts';

test('an error answer has the form and status of the Distribution spec and can be read back', () => {
  const { status, body } = distributionError('BLOB_UNKNOWN', 'no such blob', { name: 'lib/a' });
  expect(status).toBe(404);
  expect(JSON.parse(body)).toEqual({
    errors: [{ code: 'BLOB_UNKNOWN', message: 'no such blob', detail: { name: 'lib/a' } }],
  });
  expect(parseErrorBody(body)).toMatchObject([{ code: 'BLOB_UNKNOWN', message: 'no such blob' }]);
});

test.each(['', '<html>502</html>', '{}', '{"errors":"no"}', 'null', '{"errors":[{"message":"x"}]}'])(
  'an error body that is not one gives no entries: %j',
  (body) => {
    expect(parseErrorBody(body)).toEqual([]);
  },
);

test('a registry error says where, what and which status', () => {
  const context = { host: 'quay.io', repository: 'org/img', reference: '1.0' };
  const error = new RegistryError('ERR_REGISTRY_NOT_FOUND', context, 'not found', { status: 404 });
  expect(error).toMatchObject({
    ...context,
    code: 'ERR_REGISTRY_NOT_FOUND',
    status: 404,
    retryAfterMs: null,
  });
  expect(error.message).toBe('quay.io/org/img:1.0: not found');
});
