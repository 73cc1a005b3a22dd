import { expect, test } from 'vitest';
import {
  DOCKER_MANIFEST,
  DOCKER_MANIFEST_LIST,
  MANIFEST_ACCEPT,
  OCI_INDEX,
  OCI_MANIFEST,
} from '../../oci/media-types.ts';
import { acceptedKinds, isAccepted } from './negotiation.ts';

test.each([
  [undefined, null],
  ['', null],
  ['*/*', null],
  [`${DOCKER_MANIFEST}, application/*`, null],
  [MANIFEST_ACCEPT.join(', '), null],
  ['application/json', null],
  [DOCKER_MANIFEST, [DOCKER_MANIFEST]],
  [`${DOCKER_MANIFEST.toUpperCase()};q=0.5,${OCI_INDEX}`, [OCI_INDEX, DOCKER_MANIFEST]],
  [`${DOCKER_MANIFEST}, ${OCI_MANIFEST};q=0, */*; q=0.0`, [DOCKER_MANIFEST]],
])('of Accept: %s it is told which kinds of manifests the client takes', (header, kinds) => {
  expect(acceptedKinds(header)).toEqual(kinds);
});

test('only what is of a known kind can be one that a client does not take', () => {
  expect(isAccepted(OCI_INDEX, null)).toBe(true);
  expect(isAccepted(OCI_INDEX, [OCI_INDEX])).toBe(true);
  expect(isAccepted(DOCKER_MANIFEST_LIST, [OCI_INDEX])).toBe(false);
  expect(isAccepted('application/vnd.example+json', [OCI_INDEX])).toBe(true);
});
