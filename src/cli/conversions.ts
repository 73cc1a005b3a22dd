import { Command, Option } from 'commander';
import { z } from 'zod';
import { STATUS_STATES } from '../proxy/conversion/conversion-status.ts';
import { askProxy, proxyOption } from './ask-proxy.ts';
import { formatTable, printJson } from './output.ts';

interface ConversionsFlags {
  readonly proxy: URL;
  readonly state?: string;
  readonly json: boolean;
}

const statusSchema = z.looseObject({
  digest: z.string(),
  state: z.string(),
  upstream: z.string(),
  repository: z.string(),
  platform: z.string().nullable(),
  bytesDone: z.number(),
  bytesTotal: z.number(),
  converted: z.looseObject({ layerBytes: z.number() }).nullable(),
  durationMs: z.number().nullable(),
  ahead: z.number().nullable(),
  error: z.string().nullable(),
  errorCode: z.string().nullable(),
  attempts: z.number(),
  nextAttemptAt: z.string().nullable(),
});
type Status = z.infer<typeof statusSchema>;

/** `dadi conversions`, `dadi conversions retry DIGEST` */
export function conversionsCommand(): Command {
  const retry = new Command('retry')
    .description('Have a failed conversion tried again now')
    .argument('<digest>', 'of the original manifest, as the list shows it')
    .exitOverride()
    .action(retryOne);
  return new Command('conversions')
    .description('List what a proxy has converted or could not convert, and why')
    .addOption(proxyOption())
    .addOption(new Option('--state <state>', 'only those in this state').choices(STATUS_STATES))
    .option('--json', 'print them as JSON', false)
    .addCommand(retry)
    .action(list);
}

async function list({ proxy, state, json }: ConversionsFlags): Promise<void> {
  const query = state === undefined ? '' : `?state=${state}`;
  const answer = await askProxy(proxy, 'GET', `dadi/v1/conversions${query}`);
  const { conversions } = z.object({ conversions: z.array(statusSchema) }).parse(answer);
  if (json) printJson(conversions);
  else if (conversions.length > 0) printTable(conversions);
}

async function retryOne(digest: string, _flags: object, command: Command): Promise<void> {
  const { proxy, json } = command.optsWithGlobals<ConversionsFlags>();
  const path = `dadi/v1/conversions/${encodeURIComponent(digest)}/retry`;
  const status = statusSchema.parse(await askProxy(proxy, 'POST', path));
  if (json) printJson(status);
  else printTable([status]);
}

function printTable(conversions: readonly Status[]): void {
  const rows = conversions.map((each) => [
    stateOf(each),
    `${each.upstream}/${each.repository}${each.platform === null ? '' : ` (${each.platform})`}`,
    each.digest,
    sizeOf(each),
    each.durationMs === null ? '-' : `${(each.durationMs / 1000).toFixed(1)} s`,
    String(each.attempts),
    each.nextAttemptAt ?? '-',
    reasonOf(each),
  ]);
  const header = ['STATE', 'IMAGE', 'DIGEST', 'SIZE', 'TIME', 'FAILURES', 'NEXT ATTEMPT', 'REASON'];
  console.log(formatTable(header, rows));
}

function stateOf({ state, bytesDone, bytesTotal, ahead }: Status): string {
  switch (state) {
    case 'running':
      return `running ${bytesTotal === 0 ? 0 : Math.floor((100 * bytesDone) / bytesTotal)} %`;
    case 'queued':
      return ahead === null ? state : `queued, ${ahead} ahead`;
    default:
      return state;
  }
}

/** Of the converted layers, and as a part of the original ones. */
function sizeOf({ converted, bytesTotal }: Status): string {
  if (converted === null || converted.layerBytes === 0) return '-';
  const size = `${(converted.layerBytes / 1e6).toFixed(1)} MB`;
  return bytesTotal === 0 ? size : `${size} (${Math.round((100 * converted.layerBytes) / bytesTotal)} %)`;
}

function reasonOf({ state, error, errorCode }: Status): string {
  if (error === null) return '';
  return state === 'left' ? `left as it is: ${error}` : `${error} (${errorCode})`;
}
