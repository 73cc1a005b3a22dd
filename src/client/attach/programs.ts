import { execFile } from 'node:child_process';
import { ClientError } from '../errors.ts';

/** Where each program that we start comes from on Debian and Ubuntu. */
const PACKAGES = { cat: 'coreutils', losetup: 'mount' } as const;

export type Program = keyof typeof PACKAGES;

/** Bound on programs that only make one system call or two. */
const PROGRAM_TIMEOUT_MS = 30_000;

export function missingProgram(program: Program, cause?: unknown): ClientError {
  return new ClientError(
    'ERR_ATTACH_UNSUPPORTED',
    `${program} is not installed: on Debian and Ubuntu, "apt-get install ${PACKAGES[program]}"`,
    { cause },
  );
}

/** Runs a program to its end and gives what it printed; rejects with what it complained about. */
export function runProgram(program: Program, args: readonly string[]): Promise<string> {
  return new Promise((resolve, reject) => {
    execFile(program, args, { timeout: PROGRAM_TIMEOUT_MS }, (error, stdout, stderr) => {
      if (error === null) return resolve(stdout.trim());
      if (error.code === 'ENOENT') return reject(missingProgram(program, error));
      const complaint = stderr.trim() || error.message;
      reject(new ClientError('ERR_ATTACH_FAILED', `${program} ${args.join(' ')}: ${complaint}`));
    });
  });
}
