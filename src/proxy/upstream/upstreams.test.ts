import { afterAll, expect, test } from 'vitest';
import { RegistryClient } from '../../oci/registry-client.ts';
import { Upstreams } from './upstreams.ts';

const upstreams = new Upstreams(
  ['docker.io', 'quay.io', 'localhost:5000'].map((name) => ({
    name,
    client: new RegistryClient({ baseUrl: new URL(`http://${name}`) }),
  })),
  'docker.io',
);
afterAll(() => upstreams.close());

test.each([
  ['library/python', null, 'docker.io', 'library/python'],
  ['python', null, 'docker.io', 'library/python'],
  ['org/img', null, 'docker.io', 'org/img'],
  ['quay.io/org/img', null, 'quay.io', 'org/img'],
  ['quay.io/img', null, 'quay.io', 'img'],
  ['docker.io/python', null, 'docker.io', 'library/python'],
  ['localhost:5000/img', null, 'localhost:5000', 'img'],
  ['org/img', 'quay.io', 'quay.io', 'org/img'],
  ['img', 'localhost:5000', 'localhost:5000', 'img'],
  // The parameter says all: the name is the repository's.
  ['quay.io/org/img', 'docker.io', 'docker.io', 'quay.io/org/img'],
])('%s with ns %s is at %s repository %s', (name, namespace, upstream, repository) => {
  const target = upstreams.choose(name, namespace);
  expect(target.where).toEqual({ upstream, repository });
  expect(target.client.host).toBe(upstream);
});

test.each([
  ['org/img', 'evil.example', 'NAME_UNKNOWN'],
  ['org/img', '169.254.169.254', 'NAME_UNKNOWN'],
  ['org/img', '', 'NAME_UNKNOWN'],
  ['127.0.0.1:9/img', null, 'NAME_UNKNOWN'],
  ['Org/img', null, 'NAME_INVALID'],
  ['quay.io/../img', null, 'NAME_INVALID'],
  [`org/${'a'.repeat(255)}`, null, 'NAME_INVALID'],
])('%s with ns %s is refused with %s', (name, namespace, code) => {
  expect(() => upstreams.choose(name, namespace)).toThrow(
    expect.objectContaining({ distributionCode: code }),
  );
});
