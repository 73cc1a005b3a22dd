import { readFile } from 'node:fs/promises';
import { getuid } from 'node:process';
import { type Finding, good, limited, missing } from './finding.ts';

/** capabilities(7) */
const CAP_SYS_ADMIN = 21n;

export async function rightsFindings(): Promise<Finding[]> {
  return [await root(), ...(await securityModules())];
}

async function root(): Promise<Finding> {
  const uid = getuid?.();
  const status = await readFile('/proc/self/status', 'utf8');
  const [, mask = '0'] = /^CapEff:\s*([0-9a-f]+)/m.exec(status) ?? [];
  const mayMount = ((BigInt(`0x${mask}`) >> CAP_SYS_ADMIN) & 1n) === 1n;
  if (uid === 0 && mayMount) return good('rights', 'root, with CAP_SYS_ADMIN', 'it may mount');
  return missing(
    'rights',
    uid === 0 ? 'root without CAP_SYS_ADMIN' : `user ${uid}`,
    'it may not mount anything',
    uid === 0 ? 'in a container: --privileged, or --cap-add SYS_ADMIN' : 'run the daemon, and this, as root',
  );
}

async function securityModules(): Promise<Finding[]> {
  const [enforce, appArmor] = await Promise.all(
    ['/sys/fs/selinux/enforce', '/sys/module/apparmor/parameters/enabled'].map((path) =>
      readFile(path, 'utf8').then(
        (text) => text.trim(),
        () => null,
      ),
    ),
  );
  const findings: Finding[] = [];
  if (enforce === '1') {
    findings.push(
      limited(
        'SELinux',
        'enforcing',
        'lazily mounted images bring no labels: their files have the label of an unlabelled file system, which policies for containers may deny',
        'try one container first; where it is denied, allow container_t to read unlabeled_t, or run such pods with another type',
      ),
    );
  }
  if (appArmor === 'Y') {
    findings.push(
      good('AppArmor', 'on', "runtimes' default profiles allow containers what they need of such mounts"),
    );
  }
  return findings;
}
