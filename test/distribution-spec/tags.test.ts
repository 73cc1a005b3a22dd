import type { IncomingMessage, ServerResponse } from 'node:http';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { requireCapability } from '../support/capabilities.ts';
import { FakeRegistry } from '../support/fake-registry.ts';
import { freshImage } from '../support/spec-images.ts';
import { lastingHeaders, nextOf, SpecRegistry } from '../support/spec-registry.ts';
import { errorOf, TestProxy } from '../support/test-proxy.ts';

const canRun = requireCapability('registry');

/** All pages from `path` on. */
async function walk(proxy: TestProxy, path: string): Promise<{ pages: string[][]; links: string[] }> {
  const pages: string[][] = [];
  const links: string[] = [];
  for (let next: string | null = path; next !== null && pages.length < 50; ) {
    const response: Response = await proxy.fetch(next);
    expect(response.status).toBe(200);
    const body = (await response.json()) as { tags?: string[]; repositories?: string[] };
    pages.push(body.tags ?? body.repositories ?? []);
    next = nextOf(response);
    if (next !== null) links.push(next);
  }
  return { pages, links };
}

async function tagsAt(proxy: TestProxy, path: string): Promise<string[]> {
  const response = await proxy.fetch(path);
  return ((await response.json()) as { tags: string[] }).tags;
}

describe.skipIf(!canRun)('Listing Tags', () => {
  let spec: SpecRegistry;
  const LIST = '/v2/list/tags/tags/list';

  beforeAll(async () => {
    if (!canRun) return;
    spec = await SpecRegistry.start();
    const image = freshImage();
    for (const tag of ['v2', 'latest', 'v10', 'V1', '_x']) await spec.push('list/tags', tag, image);
  });
  afterAll(async () => {
    if (canRun) await spec.remove();
  });

  test('all tags come in lexical order, with the name as it was asked for', async () => {
    const response = await spec.proxy.fetch(LIST);
    expect(response.headers.get('content-type')).toBe('application/json');
    expect(nextOf(response)).toBeNull();
    expect(await response.json()).toEqual({ name: 'list/tags', tags: ['V1', '_x', 'latest', 'v10', 'v2'] });
    const prefixed = await spec.proxy.fetch('/v2/reg.example/list/tags/tags/list');
    expect(await prefixed.json()).toMatchObject({ name: 'reg.example/list/tags' });
  });

  test('n limits a page, and Link leads from page to page until there is none', async () => {
    expect(await walk(spec.proxy, `${LIST}?n=2`)).toEqual({
      pages: [['V1', '_x'], ['latest', 'v10'], ['v2']],
      links: [`${LIST}?n=2&last=_x`, `${LIST}?n=2&last=v10`],
    });
    for (const n of [5, 6, 1000, 1_000_000]) {
      expect(await walk(spec.proxy, `${LIST}?n=${n}`)).toMatchObject({ pages: [{ length: 5 }], links: [] });
    }
  });

  test('Link keeps the way to the upstream: ns, or its name in front', async () => {
    const byNamespace = await walk(spec.proxy, `${LIST}?ns=reg.example&n=3`);
    expect(byNamespace.pages).toEqual([
      ['V1', '_x', 'latest'],
      ['v10', 'v2'],
    ]);
    expect(byNamespace.links).toEqual([`${LIST}?ns=reg.example&n=3&last=latest`]);
    const byPrefix = await walk(spec.proxy, '/v2/reg.example/list/tags/tags/list?n=3');
    expect(byPrefix.links).toEqual(['/v2/reg.example/list/tags/tags/list?n=3&last=latest']);
  });

  test('last leaves out what stands up to it, also one that does not exist', async () => {
    expect(await tagsAt(spec.proxy, `${LIST}?last=latest`)).toEqual(['v10', 'v2']);
    expect(await tagsAt(spec.proxy, `${LIST}?last=m`)).toEqual(['v10', 'v2']);
    expect(await tagsAt(spec.proxy, `${LIST}?n=1&last=m`)).toEqual(['v10']);
    expect(await tagsAt(spec.proxy, `${LIST}?last=v2`)).toEqual([]);
  });

  test('n=0 is an empty list without Link', async () => {
    const response = await spec.proxy.fetch(`${LIST}?n=0`);
    expect(response.headers.get('link')).toBeNull();
    expect(await response.json()).toEqual({ name: 'list/tags', tags: [] });
  });

  test.each(['-1', 'ten', '1.5', '99999999999999999999'])(
    'n=%s is 400 PAGINATION_NUMBER_INVALID',
    async (n) => {
      const response = await spec.proxy.fetch(`${LIST}?n=${n}`);
      expect(await errorOf(response)).toMatchObject({ status: 400, code: 'PAGINATION_NUMBER_INVALID' });
    },
  );

  test('a repository that is not there is 404 NAME_UNKNOWN, whatever n is', async () => {
    for (const query of ['', '?n=2', '?n=0']) {
      const response = await spec.proxy.fetch(`/v2/list/none/tags/list${query}`);
      expect(await errorOf(response)).toMatchObject({ status: 404, code: 'NAME_UNKNOWN' });
    }
  });

  test('HEAD says what GET says', async () => {
    const path = `${LIST}?n=2`;
    const head = await spec.proxy.fetch(path, { method: 'HEAD' });
    expect(lastingHeaders(head)).toEqual(lastingHeaders(await spec.proxy.fetch(path)));
  });
});

describe.skipIf(!canRun)('Listing Repositories: the reserved _catalog', () => {
  let spec: SpecRegistry;
  let second: FakeRegistry;
  let proxy: TestProxy;

  beforeAll(async () => {
    if (!canRun) return;
    spec = await SpecRegistry.start();
    second = await FakeRegistry.start();
    second.putImage([Buffer.from('x')], '1');
    const upstreams = [
      { name: 'reg.example', url: spec.registry.baseUrl.href },
      { name: 'aa.example', url: second.url },
    ];
    proxy = await TestProxy.start({ upstreams, conversion: { enabled: false } });
    for (const repository of ['b/two', 'a/one', 'never/pulled'])
      await spec.push(repository, '1', freshImage());
  });
  afterAll(async () => {
    if (!canRun) return;
    await proxy.remove();
    await second.stop();
    await spec.remove();
  });

  test('it lists what is kept, in order and by the names to ask for, page by page', async () => {
    expect(await (await proxy.fetch('/v2/_catalog')).json()).toEqual({ repositories: [] });
    for (const name of ['b/two', 'a/one', 'aa.example/c/three']) {
      expect((await proxy.fetch(`/v2/${name}/manifests/1`)).status).toBe(200);
    }
    const names = ['a/one', 'aa.example/c/three', 'b/two'];
    expect(await walk(proxy, '/v2/_catalog')).toEqual({ pages: [names], links: [] });
    for (const name of names) expect((await proxy.fetch(`/v2/${name}/tags/list`)).status).toBe(200);
    expect(await walk(proxy, '/v2/_catalog?n=2')).toEqual({
      pages: [names.slice(0, 2), names.slice(2)],
      links: ['/v2/_catalog?n=2&last=aa.example%2Fc%2Fthree'],
    });
    expect((await walk(proxy, '/v2/_catalog?ns=aa.example')).pages).toEqual([['c/three']]);
    expect((await walk(proxy, '/v2/_catalog?n=0')).pages).toEqual([[]]);
    expect(await errorOf(await proxy.fetch('/v2/_catalog?n=-1'))).toMatchObject({
      status: 400,
      code: 'PAGINATION_NUMBER_INVALID',
    });
  });
});

describe('Listing Tags: from registries that Debian has none of', () => {
  let upstream: FakeRegistry;
  let proxy: TestProxy;
  const LIST = '/v2/lib/a/tags/list';

  beforeEach(async () => {
    upstream = await FakeRegistry.start();
    const upstreams = [{ name: 'reg.example', url: upstream.url }];
    proxy = await TestProxy.start({ upstreams, conversion: { enabled: false } });
  });
  afterEach(async () => {
    await proxy.remove();
    await upstream.stop();
  });

  /** Answers lists of tags by `page`, which is given `n` and `last`. */
  function listBy(page: (n: number, last: string | null) => { tags: string[]; link?: string }): void {
    upstream.intercept = (request: IncomingMessage, response: ServerResponse) => {
      const { pathname, searchParams: query } = new URL(request.url!, upstream.url);
      if (!pathname.endsWith('/tags/list')) return false;
      const { tags, link } = page(Number(query.get('n')), query.get('last'));
      const headers = link === undefined ? {} : { link: `<${pathname}?${link}>; rel="next"` };
      response.writeHead(200, { 'content-type': 'application/json', ...headers });
      response.end(JSON.stringify({ name: 'lib/a', tags }));
      return true;
    };
  }

  /** Pages as the spec says, in an order of its own. */
  function listInPages(tags: string[]): void {
    listBy((n, last) => {
      const start = last === null ? 0 : tags.indexOf(last) + 1;
      const page = tags.slice(start, start + n);
      const isEnd = start + n >= tags.length;
      return { tags: page, ...(isEnd ? {} : { link: `n=${n}&last=${page.at(-1)}` }) };
    });
  }

  test('of a long list only the page is fetched that is asked for', async () => {
    const tags = Array.from({ length: 5000 }, (_, at) => `t${String(at).padStart(4, '0')}`);
    listInPages(tags);
    expect(await tagsAt(proxy, `${LIST}?n=10`)).toEqual(tags.slice(0, 10));
    expect(await tagsAt(proxy, `${LIST}?n=10&last=t0009`)).toEqual(tags.slice(10, 20));
    expect(upstream.count('GET', LIST)).toBe(2);
    // More than upstream is asked for at once: Link says that there is more.
    const { pages } = await walk(proxy, `${LIST}?n=3000`);
    expect(pages.flat()).toEqual(tags);
    expect(pages.every((page) => page.length <= 1000)).toBe(true);
    expect(await tagsAt(proxy, LIST)).toEqual(tags);
  });

  test('an upstream that puts tags in another lexical order is paged through whole', async () => {
    const tags = ['a', 'B', 'c', 'D', 'e', 'F'];
    listInPages(tags);
    for (const n of [1, 2, 4]) expect((await walk(proxy, `${LIST}?n=${n}`)).pages.flat()).toEqual(tags);
  });

  test('an upstream that pages by words of its own is paged through whole', async () => {
    const tags = ['d', 'a', 'c', 'b'];
    upstream.intercept = (request, response) => {
      const { pathname, searchParams } = new URL(request.url!, upstream.url);
      if (!pathname.endsWith('/tags/list')) return false;
      const at = Number(searchParams.get('token') ?? 0);
      const headers = at + 2 < tags.length ? { link: `<${pathname}?token=${at + 2}>; rel="next"` } : {};
      response.writeHead(200, headers).end(JSON.stringify({ tags: tags.slice(at, at + 2) }));
      return true;
    };
    expect((await walk(proxy, `${LIST}?n=3`)).pages).toEqual([['a', 'b', 'c'], ['d']]);
  });

  test('an upstream that heeds neither n nor last is paged through whole', async () => {
    listBy(() => ({ tags: ['d', 'a', 'c', 'b'] }));
    for (const n of [1, 3, 4, 9]) {
      expect((await walk(proxy, `${LIST}?n=${n}`)).pages.flat()).toEqual(['a', 'b', 'c', 'd']);
    }
    expect(await tagsAt(proxy, `${LIST}?n=9&last=b`)).toEqual(['c', 'd']);
  });

  test('a repository without tags has an empty list, also where upstream says null', async () => {
    upstream.intercept = (_request, response) => {
      response.writeHead(200).end('{"name":"lib/a","tags":null}');
      return true;
    };
    expect(await tagsAt(proxy, LIST)).toEqual([]);
    expect(await tagsAt(proxy, `${LIST}?n=3`)).toEqual([]);
  });

  test('without upstream the tags are those that were pulled, in pages and with Warning', async () => {
    for (const tag of ['c', 'a', 'b', 'unpulled']) upstream.putImage([Buffer.from(tag)], tag);
    for (const tag of ['c', 'a', 'b']) await proxy.fetch(`/v2/lib/a/manifests/${tag}`);
    await upstream.stop();
    const response = await proxy.fetch(`${LIST}?n=2`);
    expect(response.headers.get('warning')).toMatch(/^299 - "reg\.example cannot be asked .*"$/);
    expect(await response.json()).toEqual({ name: 'lib/a', tags: ['a', 'b'] });
    expect(nextOf(response)).toBe(`${LIST}?n=2&last=b`);
    expect(await errorOf(await proxy.fetch('/v2/lib/other/tags/list'))).toMatchObject({ status: 503 });
  });
});
