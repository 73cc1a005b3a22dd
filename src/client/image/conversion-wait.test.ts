import { expect, test } from 'vitest';
import { FakeRegistry } from '../../../test/support/fake-registry.ts';
import { digestOf } from '../../oci/digest.ts';
import { waitForConversion } from './conversion-wait.ts';

test('what has no end is no answer about a conversion', async () => {
  const registry = await FakeRegistry.start();
  const done = { state: 'done', layersDone: 1, layersTotal: 1, bytesDone: 1, bytesTotal: 1, error: null };
  const converted = { digest: digestOf('converted') };
  let paddingBytes = 1024;
  registry.intercept = (_, response) => {
    response.end(JSON.stringify({ ...done, converted }).padEnd(paddingBytes));
    return true;
  };
  const options = { baseUrl: new URL(`${registry.url}/`), original: digestOf('original'), waitMs: 0 };
  expect(await waitForConversion(options)).toBe(converted.digest);
  paddingBytes = 10 * 1024 * 1024;
  await expect(waitForConversion(options)).rejects.toMatchObject({
    code: 'ERR_IMAGE_NOT_CONVERTED',
    cause: { code: 'ERR_REGISTRY_TOO_BIG' },
  });
  await registry.stop();
});
