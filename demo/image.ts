/**
 * Builds the image that the demo and the end-to-end tests use, from Debian packages, once: it is kept in
 * `.cache/demo/` under a hash of its recipe, and stands there only when it is complete.
 */
import { createHash } from 'node:crypto';
import {
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { join, resolve } from 'node:path';
import { CleanupStack } from './cleanup.ts';
import { type DebianSources, debianSources } from './debian-sources.ts';
import { run } from './process.ts';
import { LAYERS, SOURCE_DATE_EPOCH } from './recipe.ts';

export interface DemoImage {
  /** OCI image layout that holds the image. Tag `latest` is all of it, tag `N` its first N layers. */
  readonly layout: string;
  readonly layers: readonly { readonly name: string; readonly about: string; readonly tarBytes: number }[];
}

export interface BuildOptions {
  readonly signal: AbortSignal;
  /** Called with a line for people whenever something begins or ends. */
  readonly report: (line: string) => void;
}

const PROJECT = resolve(import.meta.dirname, '..');
const CACHE = join(PROJECT, '.cache', 'demo');
const LAYER_SCRIPT = join(import.meta.dirname, 'layer.sh');
const BASE_ABOUT = 'a minimal Debian';

/** Returns the demo image, building it first if this recipe was never built here. */
export async function demoImage(options: BuildOptions): Promise<DemoImage> {
  const finished = join(CACHE, `image-${recipeHash()}`);
  const known = readImage(finished);
  if (known !== null) return known;

  mkdirSync(CACHE, { recursive: true });
  removeLeftovers();
  const cleanup = new CleanupStack();
  const build = mkdtempSync(join(CACHE, `build-${process.pid}-`));
  cleanup.defer(`remove ${build}`, async () => rmSync(build, { recursive: true, force: true }));
  try {
    const made = await buildImage(build, options);
    // Another process may have built the same meanwhile: then its image stays.
    if (readImage(finished) === null) renameSync(made, finished);
  } finally {
    await cleanup.close();
  }
  const image = readImage(finished);
  if (image === null) throw new Error(`the image in ${finished} cannot be read`);
  return image;
}

/** Builds in `build`, and returns the directory in it that is the finished image. */
async function buildImage(build: string, { signal, report }: BuildOptions): Promise<string> {
  const sources = await debianSources(signal);
  const layers: { name: string; about: string; tarBytes: number }[] = [];
  const trees: string[] = [];
  const tars: string[] = [];
  for (const [index, layer] of [{ name: 'debian', about: BASE_ABOUT, commands: null }, ...LAYERS].entries()) {
    report(`layer ${index + 1}/${LAYERS.length + 1}: ${layer.about}`);
    const tree = join(build, `${index + 1}-${layer.name}`);
    const tar = `${tree}.tar`;
    mkdirSync(tree);
    if (layer.commands === null) await makeBase(build, sources, tree, tar, signal);
    else await makeLayer(build, [...trees].reverse(), tree, tar, layer.commands, signal);
    trees.push(tree);
    tars.push(tar);
    layers.push({ name: layer.name, about: layer.about, tarBytes: statSync(tar).size });
  }
  report('compressing the layers and assembling the image');
  const image = join(build, 'image');
  await assemble(image, tars, signal);
  writeFileSync(join(image, 'layers.json'), `${JSON.stringify(layers, null, 2)}\n`);
  return image;
}

async function makeBase(
  build: string,
  sources: DebianSources,
  tree: string,
  tar: string,
  signal: AbortSignal,
): Promise<void> {
  const include = sources.lines.some((line) => line.includes(' https:')) ? ['--include=ca-certificates'] : [];
  const options = sources.options.map((line) => `--aptopt=${line}`);
  await run(
    'mmdebstrap',
    ['--variant=minbase', '--mode=root', ...include, ...options, sources.suite, tar, ...sources.lines],
    { signal, environment: { SOURCE_DATE_EPOCH: String(SOURCE_DATE_EPOCH), TMPDIR: build } },
  );
  await run('tar', ['-x', '--xattrs', '--xattrs-include=*', '--numeric-owner', '-C', tree, '-f', tar], {
    signal,
  });
}

/** @param lowers the trees of the layers below, nearest first */
async function makeLayer(
  build: string,
  lowers: readonly string[],
  tree: string,
  tar: string,
  commands: string,
  signal: AbortSignal,
): Promise<void> {
  // In namespaces of its own, so that whatever happens no mount and no process of the build is left.
  await run(
    'unshare',
    [
      '--mount',
      '--pid',
      '--fork',
      '--kill-child=SIGKILL',
      LAYER_SCRIPT,
      lowers.join(':'),
      tree,
      join(build, 'apt'),
      tar,
      commands,
    ],
    { signal, environment: { SOURCE_DATE_EPOCH: String(SOURCE_DATE_EPOCH) } },
  );
}

async function assemble(layout: string, tars: readonly string[], signal: AbortSignal): Promise<void> {
  const umoci = (...args: string[]) => run('umoci', args, { signal });
  const created = new Date(SOURCE_DATE_EPOCH * 1000).toISOString();
  const architecture = (await run('dpkg', ['--print-architecture'], { signal })).trim();
  const working = `${layout}:latest`;
  await umoci('init', '--layout', layout);
  await umoci('new', '--image', working);
  await umoci(
    'config',
    '--image',
    working,
    '--no-history',
    '--created',
    created,
    '--architecture',
    architecture,
    '--os',
    'linux',
    '--config.cmd',
    '/bin/bash',
  );
  for (const [index, tar] of tars.entries()) {
    await umoci('raw', 'add-layer', '--image', working, '--history.created', created, tar);
    await umoci('tag', '--image', working, String(index + 1));
  }
  await umoci('gc', '--layout', layout);
}

function readImage(directory: string): DemoImage | null {
  try {
    return { layout: directory, layers: JSON.parse(readFileSync(join(directory, 'layers.json'), 'utf8')) };
  } catch {
    return null;
  }
}

/** Everything that decides the image's bytes, apart from the versions of the Debian packages. */
function recipeHash(): string {
  const recipe = [
    readFileSync(LAYER_SCRIPT, 'utf8'),
    readFileSync(import.meta.filename, 'utf8'),
    LAYERS,
    SOURCE_DATE_EPOCH,
  ];
  return createHash('sha256').update(JSON.stringify(recipe)).digest('hex').slice(0, 16);
}

/** Removes builds whose process was killed, and images of older recipes. */
function removeLeftovers(): void {
  for (const name of readdirSync(CACHE)) {
    const builder = /^build-(\d+)-/.exec(name)?.[1];
    const stale = builder !== undefined ? !isRunning(Number(builder)) : name.startsWith('image-');
    if (stale) rmSync(join(CACHE, name), { recursive: true, force: true });
  }
}

function isRunning(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}
