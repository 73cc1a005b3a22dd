import { Command } from 'commander';
import { examineHost } from '../client/doctor/doctor.ts';
import type { Finding } from '../client/doctor/finding.ts';
import { addNodeFlags, type NodeFlags, readNodeConfig } from './node-settings.ts';
import { formatTable, printJson } from './output.ts';

interface DoctorFlags extends NodeFlags {
  readonly containerdConfig: string;
  readonly json: boolean;
}

/** Where a proxy is looked for if none is named. */
const DEFAULT_PROXIES = ['http://127.0.0.1:5100'];

const MARKS = { good: 'ok', limited: 'LIMITED', missing: 'MISSING' } as const;

/** `dadi doctor` */
export function doctorCommand(): Command {
  return addNodeFlags(
    new Command('doctor').description(
      'Tell what of this host matters to the node daemon: what there is, what that means, and what would be better',
    ),
  )
    .option('--containerd-config <file>', "containerd's configuration", '/etc/containerd/config.toml')
    .option('--json', 'print it as JSON', false)
    .addHelpText('after', '\nExit code 1: something is missing that the node daemon needs.')
    .action(async (flags: DoctorFlags) => {
      const config = readNodeConfig(flags, { proxies: DEFAULT_PROXIES });
      const findings = await examineHost({ config, containerdConfig: flags.containerdConfig });
      const isUsable = findings.every(({ state }) => state !== 'missing');
      if (flags.json) printJson({ usable: isUsable, findings });
      else console.log(textOf(findings));
      if (!isUsable) process.exitCode = 1;
    });
}

function textOf(findings: readonly Finding[]): string {
  const table = formatTable(
    ['', 'WHAT', 'FOUND', 'WHAT IT MEANS'],
    findings.map(({ name, state, found, means }) => [MARKS[state], name, found, means]),
  );
  const advice = findings.flatMap(({ name, better }) => (better === null ? [] : [`  ${name}: ${better}`]));
  return advice.length === 0 ? table : `${table}\n\nWhat would be better:\n${advice.join('\n')}`;
}
