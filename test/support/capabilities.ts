import { execFileSync } from 'node:child_process';
import { closeSync, openSync, readFileSync } from 'node:fs';
import process from 'node:process';

interface Requirement {
  /** Throws or returns false where the capability is missing. */
  readonly check: () => boolean;
  /** What is wrong and what to do about it. */
  readonly advice: string;
}

const program = (command: string, debianPackage: string): Requirement => ({
  check: () => {
    // Administrators' programs are not on everybody's PATH.
    const env = { ...process.env, PATH: `${process.env['PATH']}:/usr/sbin:/sbin` };
    execFileSync('sh', ['-c', 'command -v "$1"', 'sh', command], { stdio: 'ignore', env });
    return true;
  },
  advice: `there is no program "${command}": apt-get install ${debianPackage}`,
});

const openable = (path: string, advice: string): Requirement => ({
  check: () => {
    closeSync(openSync(path, 'r+'));
    return true;
  },
  advice: `${path} cannot be opened: ${advice}`,
});

const REQUIREMENTS = {
  root: { check: () => process.geteuid?.() === 0, advice: 'this is not root: run the tests as root' },
  fuse: openable('/dev/fuse', 'give the container --device /dev/fuse and CAP_SYS_ADMIN'),
  loop: openable('/dev/loop-control', 'give the container the loop devices and CAP_SYS_ADMIN'),
  erofs: {
    check: () => /\terofs$/m.test(readFileSync('/proc/filesystems', 'utf8')),
    advice: 'this kernel knows no EROFS: modprobe erofs',
  },
  'erofs-utils': program('fsck.erofs', 'erofs-utils'),
  registry: program('docker-registry', 'docker-registry'),
  htpasswd: program('htpasswd', 'apache2-utils'),
  openssl: program('openssl', 'openssl'),
  iproute2: program('ip', 'iproute2'),
  skopeo: program('skopeo', 'skopeo'),
  umoci: program('umoci', 'umoci'),
  containerd: program('containerd', 'containerd'),
  runc: program('runc', 'runc'),
  busybox: {
    check: () => !needsLoader(readFileSync('/bin/busybox')),
    advice: 'there is no /bin/busybox without libraries: apt-get install busybox-static',
  },
  postgres: program('/usr/lib/postgresql/15/bin/postgres', 'postgresql-15'),
  docker: program('dockerd', 'docker.io'),
  podman: program('podman', 'podman'),
  buildah: program('buildah', 'buildah'),
  pigz: program('pigz', 'pigz'),
  bgzip: program('bgzip', 'tabix'),
  zstd: program('zstd', 'zstd'),
  mmdebstrap: program('mmdebstrap', 'mmdebstrap'),
  time: program('/usr/bin/time', 'time'),
  python: program('python3', 'python3'),
  bsdtar: program('bsdtar', 'libarchive-tools'),
  attr: program('setfattr', 'attr'),
} satisfies Record<string, Requirement>;

/** Something of the machine that a test needs. */
export type Capability = keyof typeof REQUIREMENTS;

/**
 * Whether the machine has all that a test needs. If not, says what is missing and what to install, so that nobody
 * takes the skipped test for a passed one; where `CI` is set, missing things are errors.
 *
 * @example describe.skipIf(!requireCapability('root', 'umoci'))('…', () => { … });
 */
export function requireCapability(...capabilities: readonly Capability[]): boolean {
  const missing = capabilities.filter((name) => !isThere(REQUIREMENTS[name]));
  if (missing.length === 0) return true;
  const reasons = missing.map((name) => `  ${name}: ${REQUIREMENTS[name].advice}`).join('\n');
  if (process.env['CI']) throw new Error(`these tests cannot run here:\n${reasons}`);
  console.warn(`SKIPPED, since this machine cannot run these tests:\n${reasons}`);
  return false;
}

function isThere({ check }: Requirement): boolean {
  try {
    return check();
  } catch {
    return false;
  }
}

/** Whether a program for 64-bit machines of this byte order (elf(5)) wants a dynamic loader: has a header PT_INTERP. */
function needsLoader(elf: Buffer): boolean {
  const [offset, size, count] = [Number(elf.readBigUInt64LE(32)), elf.readUInt16LE(54), elf.readUInt16LE(56)];
  return Array.from({ length: count }, (_, at) => elf.readUInt32LE(offset + at * size)).includes(3);
}
