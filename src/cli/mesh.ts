import { Command, Option } from 'commander';
import { z } from 'zod';
import { isDigest } from '../oci/digest.ts';
import { httpUrl } from './arguments.ts';
import { askProxy, proxyOption } from './ask-proxy.ts';
import { formatBytes, formatTable, printJson } from './output.ts';

interface MeshFlags {
  readonly proxy: URL;
  readonly through: URL;
  readonly json: boolean;
}

const DEFAULT_THROUGH = new URL('http://127.0.0.1:5100');

const summarySchema = z.looseObject({
  blob: z.string(),
  table: z.string(),
  members: z.number(),
  depth: z.number(),
});

const overviewSchema = z.looseObject({
  members: z.number(),
  depth: z.number(),
  trees: z.array(summarySchema),
});

const hostSchema = z.looseObject({
  id: z.string(),
  address: z.string(),
  zone: z.string(),
  parent: z.string().nullable(),
  depth: z.number(),
  children: z.number(),
  slots: z.number(),
  state: z.string(),
  wrongBytes: z.number(),
  edges: z.array(
    z.looseObject({ from: z.string().nullable(), bytes: z.number(), latencyMs: z.number().nullable() }),
  ),
});
type Host = z.infer<typeof hostSchema>;

const treesSchema = z.looseObject({ trees: z.array(summarySchema.extend({ hosts: z.array(hostSchema) })) });
type Tree = z.infer<typeof treesSchema>['trees'][number];

/** `dadi mesh [IMAGE]` */
export function meshCommand(): Command {
  return new Command('mesh')
    .description('Draw the trees in which hosts get an image from each other, as a root has them')
    .argument('[image]', 'an image, or the digest of a layer; without it, all trees are listed')
    .addOption(proxyOption())
    .addOption(
      new Option('--through <url>', 'where the proxy answers clients: it tells the layers of an image')
        .default(DEFAULT_THROUGH, DEFAULT_THROUGH.href)
        .argParser(httpUrl),
    )
    .option('--json', 'print them as JSON', false)
    .addHelpText(
      'after',
      `
Each line is a host: what it got from the one above it, after how many milliseconds that began last, and what it got
elsewhere. Of several roots each has some of the trees: ask all.`,
    )
    .action(async (image: string | undefined, flags: MeshFlags) => {
      const { proxy, through, json } = flags;
      if (image === undefined) await list(proxy, json);
      else await draw(proxy, isDigest(image) ? [image] : await layersOf(image, through), json);
    });
}

async function list(proxy: URL, json: boolean): Promise<void> {
  const overview = overviewSchema.parse(await askProxy(proxy, 'GET', 'dadi/v1/mesh'));
  if (json) {
    printJson(overview);
    return;
  }
  const { members, trees, depth } = overview;
  const rows = trees.map((tree) => [tree.blob, String(tree.members), String(tree.depth)]);
  if (rows.length > 0) console.log(formatTable(['LAYER', 'HOSTS', 'DEPTH'], rows));
  console.log(`${members} hosts, ${trees.length} trees, depth ${depth}`);
}

async function draw(proxy: URL, blobs: readonly string[], json: boolean): Promise<void> {
  const query = new URLSearchParams(blobs.map((blob) => ['blob', blob] as [string, string]));
  const { trees } = treesSchema.parse(await askProxy(proxy, 'GET', `dadi/v1/mesh?${query}`));
  if (json) printJson(trees);
  else if (trees.length === 0) console.log('no host is in a tree of it');
  else console.log(trees.map(textOf).join('\n\n'));
}

/** Digests of its layers' blobs, in the converted form. */
async function layersOf(reference: string, proxy: URL): Promise<string[]> {
  const { openRegistryImage } = await import('../client/image/registry-image.ts');
  const image = await openRegistryImage({ reference, proxy, waitMs: 0 });
  try {
    return image.layers.map(({ digest }) => digest);
  } finally {
    await image.close();
  }
}

function textOf({ blob, members, depth, hosts }: Tree): string {
  const known = new Set(hosts.map(({ id }) => id));
  const below = (parent: string | null): readonly Host[] =>
    hosts.filter((host) =>
      parent === null ? host.parent === null || !known.has(host.parent) : host.parent === parent,
    );
  const lines = (parent: string | null, indent: string): string[] =>
    below(parent).flatMap((host, at, { length }) => {
      const isLast = at === length - 1;
      const further = lines(host.id, `${indent}${isLast ? '   ' : '│  '}`);
      return [`${indent}${isLast ? '└─ ' : '├─ '}${hostText(host)}`, ...further];
    });
  const counts = `${members} ${members === 1 ? 'host' : 'hosts'}, depth ${depth}`;
  return [`layer ${blob} (${counts})`, 'proxies', ...lines(null, '')].join('\n');
}

function hostText({ address, zone, parent, edges, children, slots, state, wrongBytes }: Host): string {
  const others = edges.filter(({ from }) => from !== parent && from !== null);
  const direct = edges.find(({ from }) => from === null);
  const above = edges.find(({ from }) => from === parent);
  const latency = above?.latencyMs == null ? '' : ` in ${above.latencyMs.toFixed(1)} ms`;
  const otherBytes = others.reduce((sum, { bytes }) => sum + bytes, 0);
  return [
    `${address}${zone === '' ? '' : ` [${zone}]`}`,
    `${formatBytes(above?.bytes ?? 0)}${latency}`,
    ...(otherBytes === 0 ? [] : [`${formatBytes(otherBytes)} from others`]),
    ...(parent === null || !direct?.bytes ? [] : [`${formatBytes(direct.bytes)} from the proxies`]),
    `${children} of ${slots} below`,
    ...(wrongBytes === 0 ? [] : [`sent wrong bytes: said by ${wrongBytes}`]),
    ...(state === 'ok' ? [] : [state.toUpperCase()]),
  ].join('  ');
}
