import { readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { Command } from 'commander';
import { z } from 'zod';
import { askProxy, proxyOption } from './ask-proxy.ts';
import { interruptSignal } from './interrupt.ts';
import { formatBytes, formatTable, ProgressLine, printJson } from './output.ts';

const POLL_MS = 500;
/** They go in a query. */
const IMAGES_A_JOB = 50;

interface Flags {
  readonly proxy: URL;
  readonly file?: string;
  readonly platform: readonly string[];
  readonly wait: boolean;
  readonly json: boolean;
}

const jobSchema = z.object({
  id: z.string(),
  isOver: z.boolean(),
  images: z.array(
    z.looseObject({
      image: z.string(),
      state: z.string(),
      bytesDone: z.number(),
      bytesTotal: z.number(),
      error: z.string().nullable(),
    }),
  ),
});
type Job = z.infer<typeof jobSchema>;

/** `dadi preheat IMAGE...` */
export function preheatCommand(): Command {
  return new Command('preheat')
    .description('Have a proxy pull images, and convert them, before anybody asks for them')
    .argument('[images...]', 'with their registries: quay.io/org/app:1')
    .addOption(proxyOption())
    .option('-f, --file <file>', 'a file with one image a line; # begins a comment')
    .option(
      '--platform <os/architecture>',
      'of images that have several; repeatable (default: all)',
      (text: string, earlier: readonly string[]) => [...earlier, text],
      [],
    )
    .option('--no-wait', 'do not wait until they are pulled')
    .option('--json', 'print how each image fared as JSON', false)
    .addHelpText(
      'after',
      '\nExits with 1 if an image could not be pulled. Conversions go on: dadi conversions.',
    )
    .action(preheat);
}

async function preheat(named: readonly string[], flags: Flags, command: Command): Promise<void> {
  const { proxy, platform, wait, json } = flags;
  const images = [...named, ...(flags.file === undefined ? [] : imagesIn(flags.file))];
  if (images.length === 0) command.error('name an image, or a file with --file', { exitCode: 2 });
  let jobs: Job[] = [];
  for (let start = 0; start < images.length; start += IMAGES_A_JOB) {
    const query = new URLSearchParams();
    for (const image of images.slice(start, start + IMAGES_A_JOB)) query.append('image', image);
    for (const each of platform) query.append('platform', each);
    jobs.push(jobSchema.parse(await askProxy(proxy, 'POST', `dadi/v1/preheat?${query}`)));
  }
  if (wait) jobs = await ended(proxy, jobs, new ProgressLine({ quiet: json }));
  const all = jobs.flatMap((job) => job.images);
  if (json) printJson(all);
  else console.log(tableOf(all));
  const failed = all.filter(({ state }) => state === 'failed').length;
  if (failed > 0) throw new Error(`${failed} of ${all.length} images could not be pulled`);
}

function imagesIn(path: string): string[] {
  let text: string;
  try {
    text = readFileSync(path, 'utf8');
  } catch (cause) {
    throw new Error(`cannot read the list of images ${path}`, { cause });
  }
  return text
    .split('\n')
    .map((line) => line.replace(/#.*/, '').trim())
    .filter((line) => line !== '');
}

async function ended(proxy: URL, jobs: readonly Job[], line: ProgressLine): Promise<Job[]> {
  const signal = interruptSignal();
  let now = [...jobs];
  while (now.some(({ isOver }) => !isOver)) {
    await sleep(POLL_MS, undefined, { signal });
    now = await Promise.all(
      now.map(async (job) =>
        job.isOver ? job : jobSchema.parse(await askProxy(proxy, 'GET', `dadi/v1/preheat/${job.id}`)),
      ),
    );
    line.show(progressOf(now.flatMap(({ images }) => images)));
  }
  line.clear();
  return now;
}

function progressOf(images: Job['images']): string {
  const over = images.filter(({ state }) => state === 'done' || state === 'failed').length;
  const bytes = images.reduce((sum, { bytesDone }) => sum + bytesDone, 0);
  return `${over} of ${images.length} images, ${formatBytes(bytes)}`;
}

function tableOf(images: Job['images']): string {
  const rows = images.map(({ image, state, bytesTotal, error }) => [
    state,
    image,
    formatBytes(bytesTotal),
    error ?? '',
  ]);
  return formatTable(['STATE', 'IMAGE', 'SIZE', 'REASON'], rows);
}
