import { listMounts } from '../client/mount/unmount.ts';
import { formatBytes, formatTable, printJson } from './output.ts';

/** `dadi mount` without arguments. */
export async function listCommand({
  runDir,
  json,
}: {
  readonly runDir: string;
  readonly json: boolean;
}): Promise<void> {
  const mounts = await listMounts(runDir);
  if (json) {
    printJson(mounts.map(({ id, status, state, stats }) => ({ ...state, id, status, stats })));
    return;
  }
  if (mounts.length === 0) return;
  const rows = mounts.map(({ id, status, state, stats }) => [
    id,
    state?.directory ?? '?',
    state?.image ?? '?',
    status,
    stats === null ? '-' : `${formatBytes(stats.bytesFetched)} of ${formatBytes(stats.imageBytes)}`,
  ]);
  console.log(formatTable(['ID', 'DIRECTORY', 'IMAGE', 'STATUS', 'FETCHED'], rows));
}
