import { expect, test } from 'vitest';
import { bareMediaType, layerFormat } from './media-types.ts';

test.each([
  ['application/vnd.oci.image.layer.v1.tar', 'none', false, false],
  ['application/vnd.oci.image.layer.v1.tar+gzip', 'gzip', false, false],
  ['application/vnd.oci.image.layer.v1.tar+zstd', 'zstd', false, false],
  ['application/vnd.oci.image.layer.v1.tar+gzip+encrypted', 'gzip', false, true],
  ['application/vnd.oci.image.layer.v1.tar+encrypted', 'none', false, true],
  ['application/vnd.oci.image.layer.nondistributable.v1.tar+gzip', 'gzip', true, false],
  ['application/vnd.docker.image.rootfs.diff.tar', 'none', false, false],
  ['application/vnd.docker.image.rootfs.diff.tar.gzip', 'gzip', false, false],
  ['application/vnd.docker.image.rootfs.diff.tar.zstd', 'zstd', false, false],
  ['application/vnd.docker.image.rootfs.foreign.diff.tar.gzip', 'gzip', true, false],
])(
  '%s is a layer: compression %s, foreign %s, encrypted %s',
  (mediaType, compression, foreign, encrypted) => {
    expect(layerFormat(mediaType)).toEqual({ compression, foreign, encrypted });
  },
);

test.each([
  'application/vnd.in-toto+json',
  'application/vnd.oci.image.config.v1+json',
  'application/vnd.oci.image.layer.v1.tar+lzma',
  'application/vnd.docker.image.rootfs.diff.tar+gzip',
  '',
])('%j is no layer', (mediaType) => {
  expect(layerFormat(mediaType)).toBeNull();
});

test('parameters and letter case of a content type do not matter', () => {
  expect(bareMediaType('Application/JSON ; charset=utf-8')).toBe('application/json');
});
