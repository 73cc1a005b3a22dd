/**
 * What runs in the virtual machine of run.ts: attaches a device by the kernel's NBD, and looks at it from other
 * processes while the one that serves it is killed and replaced. `guest.ts IMAGE DIRECTORY` is the one that looks.
 */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import process from 'node:process';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { attachDevice, detachRemains, resumeAttachment } from '../../src/client/attach/attachment.ts';
import { FileSource } from '../../src/format/file-source.ts';

const [image = '', work = '', role = 'look'] = process.argv.slice(2);
const target = join(work, 'root');
const workDirectory = join(work, 'state');

/** Says `ready METHOD`, then obeys: `detach`, `release`. */
async function serve(how: 'attach' | 'resume'): Promise<void> {
  const options = { device: FileSource.open(image), fsType: 'erofs', workDirectory, target } as const;
  const attachment = how === 'attach' ? await attachDevice(options) : await resumeAttachment(options);
  if (attachment === null) throw new Error('there is nothing to resume');
  console.log(`ready ${attachment.method}`);
  void attachment.ended.then(() => process.exit());
  for await (const line of createInterface(process.stdin)) {
    if (line === 'detach') await attachment.detach({ lazy: false });
    else await attachment.release();
  }
}

async function start(how: 'attach' | 'resume'): Promise<ChildProcess> {
  const args = ['--disable-warning=ExperimentalWarning', import.meta.filename, image, work, how];
  const child = spawn(process.execPath, args, { stdio: ['pipe', 'pipe', 'inherit'] });
  for await (const line of createInterface(child.stdout!)) {
    if (line === 'ready nbd') return child;
    throw new Error(`unexpected: ${line}`);
  }
  throw new Error(`${how} failed`);
}

async function end(child: ChildProcess, how: 'SIGKILL' | 'detach' | 'release'): Promise<void> {
  const exited = once(child, 'exit');
  if (how === 'SIGKILL') child.kill(how);
  else child.stdin!.write(`${how}\n`);
  await exited;
}

const sha256 = (bytes: Buffer): string => createHash('sha256').update(bytes).digest('hex');
const sums = new Map<string, string>();

function check(what: string, isRight: boolean): void {
  console.log(`${isRight ? 'PASS' : 'FAIL'} ${what}`);
  if (!isRight) process.exitCode = 1;
}

/** Past what the kernel remembers of the device. */
async function hasRightBytes(name: string): Promise<boolean> {
  writeFileSync('/proc/sys/vm/drop_caches', '3');
  return sha256(await readFile(join(target, name))) === sums.get(name);
}

function isNothingLeft(): boolean {
  const isConnected = readdirSync('/sys/block').some((name) => existsSync(`/sys/block/${name}/backend`));
  return !isConnected && !readFileSync('/proc/self/mountinfo', 'utf8').includes(target);
}

async function look(): Promise<void> {
  mkdirSync(target, { recursive: true });
  mkdirSync(workDirectory);
  for (const line of readFileSync(`${image}.sums`, 'utf8').trim().split('\n')) {
    const [sum = '', name = ''] = line.split('  ');
    sums.set(name, sum);
  }
  const first = await start('attach');
  check('a mounted device has the right bytes', await hasRightBytes('one'));
  await end(first, 'SIGKILL');
  let isRead = false;
  const reading = hasRightBytes('two').finally(() => {
    isRead = true;
  });
  await sleep(1000);
  check('a read waits when the process that serves it was killed', !isRead);
  const second = await start('resume');
  check('it goes on when the next one takes the device up', await reading);
  await end(second, 'release');
  const third = await start('resume');
  check('a released device is taken up too', await hasRightBytes('three'));
  await end(third, 'detach');
  check('nothing is left after detaching', isNothingLeft());
  const fourth = await start('attach');
  const ended = once(fourth, 'exit');
  execFileSync('umount', [target]);
  await ended;
  check('whoever unmounts it ends it', isNothingLeft());
  const fifth = await start('attach');
  await end(fifth, 'SIGKILL');
  const failing = readFile(join(target, 'one')).then(
    () => 'read',
    () => 'failed',
  );
  await detachRemains(workDirectory);
  check('what a killed process left is taken down, reads that wait fail', (await failing) === 'failed');
  check('and then nothing is left', isNothingLeft());
}

if (role === 'attach' || role === 'resume') await serve(role);
else await look();
