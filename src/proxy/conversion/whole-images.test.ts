import { expect, test, vi } from 'vitest';
import { digestOf } from '../../oci/digest.ts';
import { WholeImages } from './whole-images.ts';

const WHERE = { upstream: 'reg.example', repository: 'lib/a' };
const IMAGE = digestOf('an image');
const ANSWER = { state: 'done' };

test('an answer holds for a moment, in its repository', async () => {
  const images = new WholeImages();
  images.keep(WHERE, IMAGE, ANSWER);
  expect(images.find(WHERE, IMAGE)).toEqual(ANSWER);
  expect(images.find({ ...WHERE, repository: 'lib/b' }, IMAGE)).toBeNull();
  expect(images.find({ ...WHERE, upstream: 'other.example' }, IMAGE)).toBeNull();
  expect(images.find(WHERE, digestOf('another'))).toBeNull();
  await vi.waitFor(() => expect(images.find(WHERE, IMAGE)).toBeNull(), { timeout: 30_000 });
});
