#!/usr/bin/env node
import process from 'node:process';
import { Command, CommanderError } from 'commander';
import { version } from './version.ts';
import { keepYoungGenerationSmall } from './young-generation.ts';

const EXIT_FAILURE = 1;
const EXIT_USAGE = 2;

/** In the order of the help. Loaded one by one: a mount does not wait for the proxy's modules. */
const COMMANDS: ReadonlyMap<string, () => Promise<Command>> = new Map([
  ['proxy', async () => (await import('./proxy.ts')).proxyCommand()],
  ['mount', async () => (await import('./mount.ts')).mountCommand()],
  ['umount', async () => (await import('./umount.ts')).umountCommand()],
  ['convert', async () => (await import('./convert.ts')).convertCommand()],
  ['conversions', async () => (await import('./conversions.ts')).conversionsCommand()],
  ['preheat', async () => (await import('./preheat.ts')).preheatCommand()],
  ['cache', async () => (await import('./cache.ts')).cacheCommand()],
  ['gc', async () => (await import('./cache.ts')).gcCommand()],
  [
    'node',
    async () => {
      keepYoungGenerationSmall();
      return (await import('./node.ts')).nodeCommand();
    },
  ],
  ['mesh', async () => (await import('./mesh.ts')).meshCommand()],
  ['root', async () => (await import('./root.ts')).rootCommand()],
  ['doctor', async () => (await import('./doctor.ts')).doctorCommand()],
  ['setup', async () => (await import('./setup.ts')).setupCommand()],
  ['inspect', async () => (await import('./inspect.ts')).inspectCommand()],
]);

const program = new Command('dadi')
  .description(
    'Container images that start in seconds: read lazily, block by block, unchanged for everybody else',
  )
  .version(version)
  .exitOverride()
  .configureHelp({ showGlobalOptions: true })
  .addHelpText(
    'after',
    '\nExit codes: 0 success, 1 failure, 2 wrong usage.\nDADI_DEBUG=1 prints where an error came from.',
  );
try {
  const asked = COMMANDS.get(process.argv[2] ?? '');
  for (const load of asked === undefined ? COMMANDS.values() : [asked]) {
    program.addCommand((await load()).exitOverride());
  }
  await program.parseAsync(process.argv);
} catch (error) {
  process.exitCode = report(error);
}

function report(error: unknown): number {
  if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : EXIT_USAGE;
  if (process.env['DADI_DEBUG']) console.error(error);
  const lines: string[] = [];
  for (let cause = error; cause instanceof Error; cause = cause.cause) {
    const code = 'code' in cause && typeof cause.code === 'string' ? ` (${cause.code})` : '';
    const text = `${cause.message}${code}`;
    if (!lines.some((line) => line.includes(cause.message))) lines.push(text);
  }
  console.error(`dadi: ${lines.length > 0 ? lines.join('\n  because: ') : String(error)}`);
  return EXIT_FAILURE;
}
