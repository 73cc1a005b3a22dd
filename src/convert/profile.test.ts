import { expect, test } from 'vitest';
import { DEFAULT_PROFILE, profileId } from './profile.ts';

test('the profile ID names all that decides the bytes', () => {
  expect(profileId(DEFAULT_PROFILE)).toMatch(/^erofs2-zstd1\.\d+\.\d+-l3-32k-256k$/);
  expect(profileId({ ...DEFAULT_PROFILE, algorithm: 'lz4', blockSize: 4096 })).toMatch(
    /^erofs2-lz41\.\d+\.\d+-4k-256k$/,
  );
});
