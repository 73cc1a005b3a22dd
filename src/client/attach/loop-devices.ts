import { readdir, readFile } from 'node:fs/promises';
import { runProgram } from './programs.ts';

/** Makes a file a block device, read-only and without a page cache of its own. @throws ClientError */
export async function addLoop(file: string): Promise<string> {
  return runProgram('losetup', ['-r', '--direct-io=on', '-f', '--show', file]);
}

/** What is already gone is fine. @throws ClientError */
export async function removeLoop(device: string, file: string): Promise<void> {
  try {
    await runProgram('losetup', ['-d', device]);
  } catch (error) {
    if ((await backingFile(device.replace('/dev/', ''))) === file) throw error;
  }
}

export async function loopDevicesOn(file: string): Promise<string[]> {
  const names = (await readdir('/sys/block')).filter((name) => name.startsWith('loop'));
  const found: string[] = [];
  for (const name of names) {
    if ((await backingFile(name)) === file) found.push(`/dev/${name}`);
  }
  return found;
}

async function backingFile(loopName: string): Promise<string | null> {
  const text = await readFile(`/sys/block/${loopName}/loop/backing_file`, 'utf8').catch(() => null);
  return text?.trimEnd() ?? null;
}
