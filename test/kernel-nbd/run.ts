/**
 * Attaches a device by the kernel's NBD, in a virtual machine with Debian's kernel: for machines whose own kernel has no
 * NBD. Not part of the tests of CI: the machine is
 * emulated, which takes a minute or more, and a kernel is downloaded. Run it after a change to how
 * devices are attached: `npm run test:kernel-nbd`.
 * Needs apt-get, dpkg-deb, depmod, mkfs.erofs, busybox, cpio, ldd, qemu-system-x86_64.
 */
import { execFileSync, spawn } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import {
  copyFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import process from 'node:process';
import { createInterface } from 'node:readline';

const ROOT = resolve(import.meta.dirname, '../..');
const CACHE = join(ROOT, '.cache/kernel-nbd');
const PACKAGES = [
  ...['koffi', '@koromix/koffi-linux-x64', '@node-rs/crc32', '@node-rs/crc32-linux-x64-gnu'],
  ...['p-limit', 'yocto-queue'],
];
const MODULES = ['nbd', 'erofs'];
const TOOLS = ['sh', 'mount', 'insmod', 'poweroff', 'umount'];
const CHECKS = 8;
const TIMEOUT_MS = 600_000;

const run = (program: string, args: readonly string[], cwd = ROOT): string =>
  execFileSync(program, args, { cwd, encoding: 'utf8', maxBuffer: 2 ** 28 });

/** Debian's kernel for virtual machines, unpacked; its version. */
function kernel(): string {
  if (!existsSync(join(CACHE, 'lib/modules'))) {
    mkdirSync(CACHE, { recursive: true });
    const names = run('apt-cache', ['search', '--names-only', '^linux-image-[0-9.]+-[0-9]+-cloud-amd64$']);
    const name = names.trim().split('\n').sort().at(-1)?.split(' ')[0];
    if (name === undefined) throw new Error('apt-cache knows no kernel for the cloud: apt-get update');
    run('apt-get', ['download', name], CACHE);
    const archive = readdirSync(CACHE).find((file) => file.endsWith('.deb'))!;
    run('dpkg-deb', ['-x', archive, '.'], CACHE);
    rmSync(join(CACHE, archive));
  }
  const version = readdirSync(join(CACHE, 'lib/modules'))[0]!;
  run('/usr/sbin/depmod', ['-b', CACHE, version]);
  return version;
}

/** The modules' files in the order they are to be loaded in. */
function moduleFiles(version: string): string[] {
  const files = MODULES.flatMap((name) =>
    run('/usr/sbin/modprobe', ['-d', CACHE, '-S', version, '--show-depends', name])
      .split('\n')
      .flatMap((line) => /^insmod (\S+)/.exec(line)?.[1] ?? []),
  );
  return [...new Set(files)];
}

/** A program or native module with the libraries it is linked with. */
function copyBinary(file: string, target: string): void {
  mkdirSync(dirname(target), { recursive: true });
  copyFileSync(file, target);
  for (const [library] of run('ldd', [file]).matchAll(/\/[^ ]+/g)) {
    if (library === `${file}:`) continue;
    const copy = join(tree, library);
    mkdirSync(dirname(copy), { recursive: true });
    if (!existsSync(copy)) copyFileSync(library, copy);
  }
}

function makeImage(path: string): void {
  const content = join(work, 'content');
  mkdirSync(content);
  const sums = ['one', 'two', 'three'].map((name) => {
    const bytes = randomBytes(3_000_000);
    writeFileSync(join(content, name), bytes);
    return `${createHash('sha256').update(bytes).digest('hex')}  ${name}`;
  });
  writeFileSync(`${path}.sums`, `${sums.join('\n')}\n`);
  run('mkfs.erofs', [path, content]);
}

/** The initial RAM disk is the whole machine: Node.js, our sources, the image. */
function makeMachine(modules: readonly string[]): void {
  for (const directory of ['proc', 'sys', 'dev', 'bin', 'work'])
    mkdirSync(join(tree, directory), { recursive: true });
  copyFileSync('/usr/bin/busybox', join(tree, 'bin/busybox'));
  for (const tool of TOOLS) symlinkSync('busybox', join(tree, 'bin', tool));
  copyBinary(process.execPath, join(tree, 'bin/node'));
  for (const [index, file] of modules.entries()) copyFileSync(file, join(tree, `${index}.ko`));
  const app = join(tree, 'app');
  for (const part of ['src', 'test/kernel-nbd', 'package.json']) {
    cpSync(join(ROOT, part), join(app, part), { recursive: true });
  }
  for (const name of PACKAGES) {
    cpSync(join(ROOT, 'node_modules', name), join(app, 'node_modules', name), {
      recursive: true,
      dereference: true,
    });
  }
  copyBinary(
    join(ROOT, 'node_modules/@koromix/koffi-linux-x64/linux_x64/koffi.node'),
    join(app, 'node_modules/@koromix/koffi-linux-x64/linux_x64/koffi.node'),
  );
  makeImage(join(tree, 'image'));
  const init = [
    '#!/bin/sh',
    'mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev',
    ...modules.map((_, index) => `insmod /${index}.ko`),
    'node --disable-warning=ExperimentalWarning /app/test/kernel-nbd/guest.ts /image /work/w',
    'echo "END $?"',
    'poweroff -f',
  ];
  writeFileSync(join(tree, 'init'), `${init.join('\n')}\n`, { mode: 0o755 });
  run('sh', ['-c', 'find . | cpio -o -H newc --quiet > ../initrd'], tree);
}

/** How many checks passed; -1 if one failed. */
async function boot(version: string): Promise<number> {
  const machine = spawn(
    'qemu-system-x86_64',
    [
      ...['-machine', 'q35', '-accel', 'tcg,thread=multi', '-cpu', 'max,cx16=off', '-m', '1536', '-smp', '2'],
      ...['-nographic', '-no-reboot', '-nodefaults', '-serial', 'stdio', '-net', 'none'],
      ...['-kernel', join(CACHE, `boot/vmlinuz-${version}`), '-initrd', join(work, 'initrd')],
      ...['-append', 'console=ttyS0 quiet panic=-1'],
    ],
    { stdio: ['ignore', 'pipe', 'inherit'], timeout: TIMEOUT_MS, killSignal: 'SIGKILL' },
  );
  let passed = 0;
  let hasFailed = false;
  for await (const line of createInterface(machine.stdout)) {
    console.log(line);
    // The firmware's escape sequences may stand before.
    if (line.includes('PASS ')) passed++;
    if (line.includes('FAIL ')) hasFailed = true;
  }
  return hasFailed ? -1 : passed;
}

const work = mkdtempSync(join(tmpdir(), 'dadi-vm-'));
const tree = join(work, 'tree');
try {
  const version = kernel();
  makeMachine(moduleFiles(version));
  const passed = await boot(version);
  if (passed !== CHECKS) {
    console.error(passed < 0 ? 'a check failed' : `${passed} of ${CHECKS} checks were made`);
    process.exitCode = 1;
  }
} finally {
  rmSync(work, { recursive: true, force: true });
}
