/**
 * A host of the mesh that has bad memory, as a process: joins trees, says that it has everything, and sends wrong bytes in
 * the place of each chunk. Its argument is a {@link LyingHostTask} in JSON; it prints a line once it has its places.
 */
import process from 'node:process';
import { setTimeout as sleep } from 'node:timers/promises';
import { pino } from 'pino';
import { type ChunkTable, chunkLength, decodeChunkTable } from '../../src/format/chunk-table.ts';
import type { ChunkHolder } from '../../src/p2p/agent/chunk-holder.ts';
import { MeshAgent } from '../../src/p2p/agent/mesh-agent.ts';
import type { Content } from '../../src/p2p/mesh-protocol.ts';

export interface LyingHostTask {
  readonly secret: string;
  readonly address: string;
  readonly port: number;
  readonly roots: readonly string[];
  readonly registry: string;
  readonly repository: string;
  /** Base URL of a proxy, which has the chunk tables. */
  readonly proxy: string;
  readonly contents: readonly Content[];
}

const task = JSON.parse(process.argv[2] ?? '') as LyingHostTask;
const { registry, repository, contents } = task;
const tables = new Map(
  await Promise.all(contents.map(async (content) => [content.table, await tableOf(content)] as const)),
);
const holder: ChunkHolder = {
  find: (digest) => {
    const [table, content] = [tables.get(digest), contents.find((one) => one.table === digest)];
    if (table === undefined || content === undefined) return null;
    return { blob: content.blob, table, has: () => true, chunk: async (index) => wrongChunk(table, index) };
  },
};
const agent = await MeshAgent.start({
  ...{ holder, zone: '', uploadBytesPerSecond: 125_000_000, roots: task.roots.map((root) => new URL(root)) },
  ...{ listen: { host: task.address, port: task.port }, advertise: task.address },
  security: { kind: 'shared-secret', secret: Buffer.from(task.secret) },
  authorize: async () => null,
  logger: pino({ level: 'silent' }),
});
agent.join({ registry, repository }, contents);
while (agent.status().trees.filter(({ place }) => place !== null).length < contents.length) await sleep(10);
process.stdout.write('has its places\n');

async function tableOf({ table }: Content): Promise<ChunkTable> {
  const answer = await fetch(`${task.proxy}/v2/${repository}/blobs/${table}?ns=${registry}`);
  return decodeChunkTable(Buffer.from(await answer.arrayBuffer()));
}

/** Of the right length: nobody but who looks at the digest sees that it is wrong. */
function wrongChunk(table: ChunkTable, index: number): Buffer {
  return Buffer.alloc(chunkLength(table, index), index);
}
