import { resolve } from 'node:path';
import { Command, InvalidArgumentError, Option } from 'commander';
import { httpUrl } from './arguments.ts';
import { formatTable, printJson } from './output.ts';
import { AppliedSetup, type FileChange } from './setup/applied-setup.ts';
import { planContainerd } from './setup/containerd.ts';
import { planDocker } from './setup/docker.ts';
import type { ListNames, Plan, ReadFile, SetupWishes } from './setup/plan.ts';
import { planPodman } from './setup/podman.ts';
import { withSetupLock } from './setup/setup-lock.ts';

interface Flags {
  readonly mirror: URL;
  readonly socket: string;
  readonly registry: readonly string[];
  readonly root: string;
  readonly print: boolean;
  readonly undo: boolean;
  readonly json: boolean;
}

interface Runtime {
  readonly plan: (read: ReadFile, wishes: SetupWishes, list: ListNames) => Plan;
  /** What has it take up its files. */
  readonly next: string;
}

const RUNTIMES: ReadonlyMap<string, Runtime> = new Map([
  ['containerd', { plan: planContainerd, next: 'systemctl restart containerd' }],
  ['docker', { plan: planDocker, next: 'systemctl reload docker' }],
  ['podman', { plan: planPodman, next: 'pull something: nothing has to be restarted' }],
]);
const REGISTRY = /^[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?(?::\d{1,5})?$/;
const MAX_SOCKET_BYTES = 107;

/** `dadi setup containerd|docker|podman` */
export function setupCommand(): Command {
  return new Command('setup')
    .description('Have a container runtime of this host use the node daemon, or take that back')
    .argument('<runtime>', 'containerd, docker or podman (also buildah, skopeo, CRI-O)', runtimeName)
    .addOption(
      new Option('--mirror <url>', "where the node's mirror answers")
        .default(new URL('http://127.0.0.1:6010'), 'http://127.0.0.1:6010')
        .argParser(httpUrl),
    )
    .option(
      '--socket <path>',
      "the snapshotter's socket, for containerd",
      socketPath,
      '/run/dadi/snapshotter.sock',
    )
    .option(
      '--registry <name...>',
      'which registries are mirrored (containerd: all; podman: well-known ones)',
      addRegistry,
      [],
    )
    .option('--root <directory>', 'of the host whose files are written', (text) => resolve(text), '/')
    .option('--print', 'print what the files would be, write nothing', false)
    .option('--undo', 'take back what was set up', false)
    .option('--json', 'print the result as JSON', false)
    .action((name: string, flags: Flags) => withSetupLock(flags.root, () => setUp(name, flags)));
}

function setUp(name: string, flags: Flags): void {
  const runtime = RUNTIMES.get(name);
  if (runtime === undefined) throw new Error(`there is no set-up of ${name}`);
  const { plan, next } = runtime;
  const applied = AppliedSetup.load(flags.root, name);
  if (flags.undo) {
    report(applied.undo(), [], next, flags);
    return;
  }
  const wishes = { mirror: flags.mirror, socket: flags.socket, registries: flags.registry };
  const planned = plan(applied.original, wishes, applied.names);
  if (flags.print) print(planned, next, flags);
  else report(applied.apply(planned.files), planned.notes, next, flags);
}

function print({ files, notes }: Plan, next: string, { json }: Flags): void {
  if (json) {
    printJson({ files: files.map(({ path, after }) => ({ path, content: after })), notes, next });
    return;
  }
  for (const { path, after } of files) console.log(`# ${path}\n${after}`);
  for (const note of notes) console.log(`# note: ${note}`);
  console.log(`# then: ${next}`);
}

function report(
  changes: readonly FileChange[],
  notes: readonly string[],
  next: string,
  { json, root, undo }: Flags,
): void {
  const isChanged = changes.some(({ what }) => what !== 'unchanged' && what !== 'left');
  if (json) {
    printJson({ root, files: changes, notes, next: isChanged ? next : null });
    return;
  }
  if (changes.length === 0) console.log('nothing was set up');
  else {
    console.log(
      formatTable(
        ['FILE', 'WHAT'],
        changes.map(({ path, what }) => [path, what]),
      ),
    );
  }
  for (const { path } of changes.filter(({ what }) => what === 'left')) {
    console.log(`${path} was changed since: take out by hand what is not wanted`);
  }
  for (const note of notes) console.log(`note: ${note}`);
  if (isChanged) console.log(`next: ${next}`);
  else if (!undo) console.log('all was so already');
}

function runtimeName(text: string): string {
  if (RUNTIMES.has(text)) return text;
  throw new InvalidArgumentError(`write one of ${[...RUNTIMES.keys()].join(', ')}`);
}

function addRegistry(text: string, before: readonly string[]): readonly string[] {
  if (!REGISTRY.test(text)) throw new InvalidArgumentError('write HOST[:PORT], as in image names');
  return [...before, text];
}

function socketPath(text: string): string {
  if (!text.startsWith('/') || Buffer.byteLength(text) > MAX_SOCKET_BYTES) {
    throw new InvalidArgumentError(`write an absolute path of at most ${MAX_SOCKET_BYTES} bytes`);
  }
  return text;
}
