import { expect, test, vi } from 'vitest';
import { proxy, upstream, useProxiedRegistry } from '../../../test/support/proxied-registry.ts';
import { END_BLOCKS, tarMember } from '../../../test/support/tar-blocks.ts';
import { digestOf } from '../../oci/digest.ts';
import type { StreamedBody } from '../../oci/serving/answer.ts';
import { ConversionEvents } from './conversion-events.ts';
import { ConversionNews } from './conversion-news.ts';
import type { ConversionStatus } from './conversion-status.ts';

useProxiedRegistry({ tagTtlMs: 60_000, conversion: { concurrency: 1 } });

const layer = Buffer.concat([tarMember({ path: 'one' }, 'one'), END_BLOCKS]);

/** Events until the stream ends. */
async function eventsOf(response: Response): Promise<{ event: string; status: ConversionStatus }[]> {
  const blocks = (await response.text()).split('\n\n').filter((block) => block.startsWith('event: '));
  return blocks.map((block) => {
    const [event = '', data = ''] = block.split('\n');
    return { event: event.slice('event: '.length), status: JSON.parse(data.slice('data: '.length)) };
  });
}

const listen = (digest: string) => proxy.adminFetch(`/dadi/v1/conversions/${digest}/events`);

test('a conversion tells its progress, then that it is done, and the stream ends', async () => {
  const image = upstream.putImage([layer], '1');
  const arrived = Promise.withResolvers<void>();
  upstream.intercept = ({ url = '' }, response) => {
    if (!url.endsWith(image.layers[0]!)) return false;
    void arrived.promise.then(() => response.writeHead(200, { 'content-length': layer.length }).end(layer));
    return true;
  };
  await proxy.fetch('/v2/lib/a/manifests/1');
  const response = await listen(image.digest);
  expect(response.headers.get('content-type')).toBe('text/event-stream');
  arrived.resolve();
  const events = await eventsOf(response);
  expect(events[0]).toMatchObject({ event: 'progress', status: { digest: image.digest } });
  expect(events.at(-1)).toMatchObject({ event: 'done', status: { state: 'done', layersDone: 1 } });
  expect(events.filter(({ event }) => event !== 'progress')).toHaveLength(1);
}, 60_000);

test('one that has failed says so at once', async () => {
  const image = upstream.putImage([Buffer.alloc(1024, 'not a tar')], '1');
  await proxy.fetch('/v2/lib/a/manifests/1');
  await vi.waitFor(async () => {
    const last = (await eventsOf(await listen(image.digest))).at(-1);
    expect(last).toMatchObject({ event: 'failed', status: { errorCode: 'ERR_TAR_CORRUPT' } });
  }, 30_000);
}, 60_000);

test('what nobody has asked for has no events', async () => {
  expect((await listen(digestOf('other'))).status).toBe(404);
});

test('the stream ends cleanly when the proxy is stopped', async () => {
  const image = upstream.putImage([layer], '1');
  upstream.intercept = ({ url = '' }) => url.endsWith(image.layers[0]!);
  await proxy.fetch('/v2/lib/a/manifests/1');
  const response = await listen(image.digest);
  const events = eventsOf(response);
  await proxy.stop();
  expect((await events).map(({ event }) => event)).not.toContain('done');
  await proxy.start();
}, 60_000);

test('no more listen than are allowed, also of those that come at once; each that ends makes room', async () => {
  const events = new ConversionEvents(new ConversionNews());
  const asked = Promise.withResolvers<ConversionStatus>();
  const many = Array.from({ length: 210 }, () => events.answer(() => asked.promise));
  asked.resolve({ state: 'running' } as ConversionStatus);
  const outcomes = await Promise.allSettled(many);
  const given = outcomes.filter((outcome) => outcome.status === 'fulfilled');
  expect(given).toHaveLength(200);
  const body = given[0]!.value.body as StreamedBody;
  await body.close();
  await expect(events.answer(() => Promise.reject(new Error('no such conversion')))).rejects.toThrow(
    'no such conversion',
  );
  await expect(events.answer(() => asked.promise)).resolves.toMatchObject({ status: 200 });
  await expect(events.answer(() => asked.promise)).rejects.toThrow('200 listen already');
});
