import fc from 'fast-check';
import { expect, test } from 'vitest';
import { digestOf } from './digest.ts';
import { formatReference, isRepository, parseReference } from './reference.ts';
import { registryUrl } from './registry-url.ts';

const digest = digestOf('x');

test.each([
  ['debian', 'docker.io', 'library/debian', 'latest', null],
  ['debian:12', 'docker.io', 'library/debian', '12', null],
  ['docker.io/debian', 'docker.io', 'library/debian', 'latest', null],
  ['index.docker.io/org/img:1', 'docker.io', 'org/img', '1', null],
  ['org/img', 'docker.io', 'org/img', 'latest', null],
  ['quay.io/org/deep/img:v1.0_x', 'quay.io', 'org/deep/img', 'v1.0_x', null],
  ['localhost/img', 'localhost', 'img', 'latest', null],
  ['localhost:5000/img:1', 'localhost:5000', 'img', '1', null],
  ['[::1]:5000/img', '[::1]:5000', 'img', 'latest', null],
  ['Registry/img', 'Registry', 'img', 'latest', null],
  [`quay.io/img@${digest}`, 'quay.io', 'img', null, digest],
  [`quay.io:443/img:1@${digest}`, 'quay.io:443', 'img', '1', digest],
])('%s is read as Docker reads it', (text, registry, repository, tag, expected) => {
  const reference = parseReference(text);
  expect(reference).toEqual({ registry, repository, tag, digest: expected });
  expect(parseReference(formatReference(reference))).toEqual(reference);
});

test.each([
  '',
  ':1',
  'Debian',
  'quay.io/',
  'quay.io/img:',
  'quay.io/img:-x',
  `quay.io/img:${'x'.repeat(129)}`,
  'quay.io/../etc',
  'quay.io//img',
  'quay.io/a..b',
  'user@quay.io/img',
  'quay.io:99999999/img',
  'http://quay.io/img',
  'quay.io/img@sha256:12',
  `quay.io/${'a/'.repeat(200)}img`,
  `quay.io/img?ns=x`,
])('%j is no reference', (text) => {
  expect(() => parseReference(text)).toThrow(expect.objectContaining({ name: 'OciError' }));
});

test('long hostile names are judged at once', () => {
  const began = performance.now();
  fc.assert(
    fc.property(fc.array(fc.constantFrom('a', '-', '__', '.', '/'), { maxLength: 300 }), (pieces) => {
      isRepository(`${pieces.join('')}!`);
    }),
  );
  expect(performance.now() - began).toBeLessThan(5000);
});

test.each([
  ['docker.io', {}, 'https://registry-1.docker.io/'],
  ['quay.io', {}, 'https://quay.io/'],
  ['reg.example.com:8443', {}, 'https://reg.example.com:8443/'],
  ['localhost:5000', {}, 'http://localhost:5000/'],
  ['127.1.2.3:5000', {}, 'http://127.1.2.3:5000/'],
  ['[::1]:5000', {}, 'http://[::1]:5000/'],
  ['127.0.0.1.example.com', {}, 'https://127.0.0.1.example.com/'],
  ['10.0.0.1', {}, 'https://10.0.0.1/'],
  ['10.0.0.1', { plainHttp: true }, 'http://10.0.0.1/'],
  ['localhost', { plainHttp: false }, 'https://localhost/'],
])('registry %s with %j is at %s', (host, options, expected) => {
  expect(registryUrl(host, options).href).toBe(expected);
});
