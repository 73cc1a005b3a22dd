import { Command, Option } from 'commander';
import { z } from 'zod';
import { isDigest } from '../oci/digest.ts';
import { parseReference } from '../oci/reference.ts';
import { byteSize } from './arguments.ts';
import { askProxy, proxyOption } from './ask-proxy.ts';
import { listNodeCache, nodeOption, trimNodeCache } from './node-cache.ts';
import { formatBytes, formatTable, printJson } from './output.ts';

/** A collection removes files one by one. */
const LONG_MS = 10 * 60_000;

interface Flags {
  readonly proxy: URL;
  /** The admin socket of a node daemon. */
  readonly node?: string;
  readonly json: boolean;
}

const collectionSchema = z.looseObject({
  outcome: z.string(),
  bytesBefore: z.number(),
  bytesAfter: z.number(),
  removedBlobs: z.number(),
  freedBytes: z.number(),
  heldBlobs: z.number(),
});
const cacheSchema = z.looseObject({
  blobs: z.number(),
  bytes: z.number(),
  repositories: z.array(
    z.looseObject({
      upstream: z.string(),
      repository: z.string(),
      manifests: z.number(),
      blobs: z.number(),
      keptBytes: z.number(),
      usedAt: z.string().nullable(),
    }),
  ),
  next: z.string().nullable(),
});
const imagesSchema = z.looseObject({
  images: z.array(
    z.looseObject({
      digest: z.string(),
      keptBytes: z.number(),
      missingParts: z.number(),
      conversion: z.string().nullable(),
      tags: z.array(z.string()),
      usedAt: z.string(),
    }),
  ),
});
const removalSchema = z.looseObject({
  removedBlobs: z.number(),
  freedBytes: z.number(),
  held: z.array(z.string()),
});

/** `dadi gc` */
export function gcCommand(): Command {
  return new Command('gc')
    .description("Clean up a proxy's cache now: what is too much or too old, the longest unused first")
    .addOption(proxyOption())
    .option('--dry-run', 'tell what would be removed, remove nothing', false)
    .option('--json', 'print it as JSON', false)
    .action(async ({ proxy, dryRun, json }: Flags & { readonly dryRun: boolean }) => {
      const answer = await askProxy(proxy, 'POST', `dadi/v1/gc${dryRun ? '?dry-run' : ''}`, LONG_MS);
      if (json) printJson(answer);
      else console.log(collectionText(collectionSchema.parse(answer)));
    });
}

function collectionText(report: z.infer<typeof collectionSchema>): string {
  const { outcome, removedBlobs, freedBytes, heldBlobs, bytesBefore, bytesAfter } = report;
  if (outcome === 'busy') return 'another replica is cleaning up already';
  const verb = outcome === 'dry-run' ? 'would remove' : 'removed';
  const held = heldBlobs === 0 ? '' : `, ${heldBlobs} in use stay`;
  const kept = `${formatBytes(bytesBefore)} before, ${formatBytes(bytesAfter)} after`;
  return `${verb} ${removedBlobs} blobs, ${formatBytes(freedBytes)} (${kept})${held}`;
}

/** `dadi cache ls [REPOSITORY]`, `dadi cache rm WHAT`, `dadi cache trim --node --to SIZE` */
export function cacheCommand(): Command {
  const ls = new Command('ls')
    .description(
      'List what a proxy keeps: its repositories, or the images of one; with --node, the layers of a node',
    )
    .addOption(nodeOption())
    .argument('[repository]', 'with its registry: quay.io/org/app')
    .exitOverride()
    .action(async (repository: string | undefined, _flags: object, command: Command) => {
      const flags = command.optsWithGlobals<Flags>();
      if (flags.node !== undefined) await listNodeCache(flags.node, flags.json);
      else if (repository === undefined) await listRepositories(flags);
      else await listImages(flags, repository);
    });
  const rm = new Command('rm')
    .description('Remove something from a proxy: it is fetched again when somebody asks for it')
    .argument(
      '<what>',
      'a blob (sha256:…), an image (quay.io/org/app:1 or …@sha256:…), or with --all a repository',
    )
    .option('--all', 'all that is kept of a repository', false)
    .exitOverride()
    .action(remove);
  const trim = new Command('trim')
    .description("Make a node daemon's cache smaller: the chunks that were used least recently go first")
    .addOption(nodeOption().makeOptionMandatory())
    .addOption(
      new Option('--to <bytes>', 'what may stay, for example 5G').argParser(byteSize).makeOptionMandatory(),
    )
    .exitOverride()
    .action(async (_flags: object, command: Command) => {
      const { node, to, json } = command.optsWithGlobals<
        Flags & { readonly node: string; readonly to: number }
      >();
      await trimNodeCache(node, to, json);
    });
  return new Command('cache')
    .description('See and change what a proxy keeps, or a node daemon')
    .addOption(proxyOption())
    .option('--json', 'print it as JSON', false)
    .addCommand(ls)
    .addCommand(rm)
    .addCommand(trim);
}

async function listRepositories({ proxy, json }: Flags): Promise<void> {
  const repositories: z.infer<typeof cacheSchema>['repositories'] = [];
  let totals = { blobs: 0, bytes: 0 };
  for (let last: string | null = ''; last !== null; ) {
    const query: string = last === '' ? 'n=1000' : `n=1000&last=${encodeURIComponent(last)}`;
    const page = cacheSchema.parse(await askProxy(proxy, 'GET', `dadi/v1/cache?${query}`));
    totals = { blobs: page.blobs, bytes: page.bytes };
    repositories.push(...page.repositories);
    last = page.next;
  }
  if (json) {
    printJson({ ...totals, repositories });
    return;
  }
  const rows = repositories.map(({ upstream, repository, manifests, blobs, keptBytes, usedAt }) => [
    `${upstream}/${repository}`,
    String(manifests),
    String(blobs),
    formatBytes(keptBytes),
    usedAt ?? '-',
  ]);
  if (rows.length > 0) console.log(formatTable(['REPOSITORY', 'IMAGES', 'BLOBS', 'SIZE', 'LAST USED'], rows));
  console.log(`${totals.blobs} blobs, ${formatBytes(totals.bytes)} in all`);
}

async function listImages({ proxy, json }: Flags, repository: string): Promise<void> {
  const path = `dadi/v1/cache?repository=${encodeURIComponent(repository)}`;
  const { images } = imagesSchema.parse(await askProxy(proxy, 'GET', path));
  if (json) {
    printJson(images);
    return;
  }
  const rows = images.map(({ digest, keptBytes, missingParts, conversion, tags, usedAt }) => [
    digest,
    tags.join(' ') || '-',
    formatBytes(keptBytes),
    missingParts === 0 ? 'yes' : `${missingParts} parts missing`,
    conversion ?? '-',
    usedAt,
  ]);
  if (rows.length > 0) {
    console.log(formatTable(['IMAGE', 'TAGS', 'SIZE', 'COMPLETE', 'CONVERSION', 'LAST USED'], rows));
  }
}

async function remove(what: string, { all }: { readonly all: boolean }, command: Command): Promise<void> {
  const { proxy, json } = command.optsWithGlobals<Flags>();
  const answer = await askProxy(proxy, 'DELETE', `dadi/v1/cache?${removalQuery(what, all)}`, LONG_MS);
  const { removedBlobs, freedBytes, held } = removalSchema.parse(answer);
  if (json) printJson(answer);
  else console.log(`removed ${removedBlobs} blobs, ${formatBytes(freedBytes)}`);
  if (held.length > 0) throw new Error(`${held.length} blobs are being read and stay: ${held.join(', ')}`);
}

function removalQuery(what: string, all: boolean): URLSearchParams {
  if (isDigest(what)) return new URLSearchParams({ blob: what });
  const { registry, repository, tag, digest } = parseReference(what);
  const name = `${registry}/${repository}`;
  if (all) return new URLSearchParams({ repository: name });
  return new URLSearchParams({ repository: name, reference: digest ?? tag ?? 'latest' });
}
