import { readdirSync, readFileSync, readlinkSync } from 'node:fs';
import process from 'node:process';

/** What the machine still has of something that kept its files below a directory; a line each, for people. */
export function leftovers(directory: string): string[] {
  return [...mounts(directory), ...loopDevices(directory), ...processes(directory)];
}

function mounts(directory: string): string[] {
  const lines = readFileSync('/proc/self/mounts', 'utf8').split('\n');
  return lines.filter((line) => line.includes(directory)).map((line) => `mount: ${line}`);
}

function loopDevices(directory: string): string[] {
  const devices = readdirSync('/sys/block').filter((name) => name.startsWith('loop'));
  return devices.flatMap((name) => {
    const file = readOrEmpty(() => readFileSync(`/sys/block/${name}/loop/backing_file`, 'utf8'));
    return file.includes(directory) ? [`loop device: ${name} of ${file.trim()}`] : [];
  });
}

/** That were told of the directory, stand in it, or have files of it open. */
function processes(directory: string): string[] {
  const pids = readdirSync('/proc').filter((name) => /^\d+$/.test(name) && Number(name) !== process.pid);
  return pids.flatMap((pid) => {
    const command = readOrEmpty(() => readFileSync(`/proc/${pid}/cmdline`, 'utf8')).replaceAll('\0', ' ');
    const links = readOrEmpty(() => readdirSync(`/proc/${pid}/fd`).join('/'))
      .split('/')
      .map((descriptor) => readOrEmpty(() => readlinkSync(`/proc/${pid}/fd/${descriptor}`)));
    const cwd = readOrEmpty(() => readlinkSync(`/proc/${pid}/cwd`));
    const isOurs = [command, cwd, ...links].some((text) => text.includes(directory));
    return isOurs ? [`process: ${pid} ${command}`] : [];
  });
}

/** Processes end and devices go while they are looked at. */
function readOrEmpty(read: () => string): string {
  try {
    return read();
  } catch {
    return '';
  }
}
