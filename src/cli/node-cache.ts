import { Option } from 'commander';
import { z } from 'zod';
import { askDaemon } from '../client/node/admin-client.ts';
import { formatBytes, formatTable, printJson } from './output.ts';

const DEFAULT_SOCKET = '/run/dadi/node.sock';

/** `--node`, of commands that ask the node daemon in place of a proxy. */
export function nodeOption(): Option {
  return new Option(
    '--node [socket]',
    `ask the node daemon of this host, at its admin socket (${DEFAULT_SOCKET}), in place of a proxy`,
  ).preset(DEFAULT_SOCKET);
}

const tablesSchema = z.array(
  z.looseObject({
    blobDigest: z.string(),
    name: z.string().nullable(),
    blobBytes: z.number(),
    heldBytes: z.number(),
    heldChunks: z.number(),
    chunks: z.number(),
    lastUsed: z.string().nullable(),
    isOpen: z.boolean(),
  }),
);
const trimSchema = z.looseObject({ freedBytes: z.number(), heldBytes: z.number() });

/** `dadi cache ls --node` */
export async function listNodeCache(socket: string, asJson: boolean): Promise<void> {
  const tables = tablesSchema.parse(await asked(socket, 'GET', '/cache', null));
  if (asJson) {
    printJson(tables);
    return;
  }
  const rows = tables.map((table) => [
    table.name ?? '-',
    table.blobDigest,
    formatBytes(table.heldBytes),
    `${table.heldChunks} of ${table.chunks}`,
    table.isOpen ? 'mounted' : (table.lastUsed ?? '-'),
  ]);
  if (rows.length > 0) console.log(formatTable(['IMAGE', 'LAYER', 'SIZE', 'CHUNKS', 'LAST USED'], rows));
  const bytes = tables.reduce((sum, { heldBytes }) => sum + heldBytes, 0);
  console.log(`${tables.length} layers, ${formatBytes(bytes)} in all`);
}

/** `dadi cache trim --node --to SIZE` */
export async function trimNodeCache(socket: string, toBytes: number, asJson: boolean): Promise<void> {
  const answer = trimSchema.parse(await asked(socket, 'POST', '/cache/trim', { toBytes }));
  if (asJson) {
    printJson(answer);
    return;
  }
  const { freedBytes, heldBytes } = answer;
  const rest = heldBytes > toBytes ? ': mounted images need them' : '';
  console.log(`removed ${formatBytes(freedBytes)}, ${formatBytes(heldBytes)} stay${rest}`);
}

async function asked(socket: string, method: 'GET' | 'POST', path: string, body: object | null) {
  const answer = await askDaemon(socket, method, path, body);
  if (answer === null)
    throw new Error(`no node daemon answers at ${socket}; give its admin socket: --node SOCKET`);
  return answer;
}
