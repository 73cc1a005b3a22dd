import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { freePort, ProcessError, run, start } from './processes.ts';

let scratch: string;
beforeAll(() => {
  scratch = mkdtempSync(join(tmpdir(), 'dadi-processes-'));
});
afterAll(() => rmSync(scratch, { recursive: true, force: true }));

const isAlive = (pid: number) => existsSync(`/proc/${pid}`);

describe('run', () => {
  it('gives what the program wrote', async () => {
    const result = await run('sh', ['-c', 'echo "$0 $WORD"; echo bad >&2; pwd'], {
      env: { WORD: 'there' },
      cwd: '/',
    });
    expect(result).toEqual({ stdout: 'sh there\n/\n', stderr: 'bad\n' });
  });

  it('rejects with the exit status and standard error', async () => {
    const error = await run('sh', ['-c', 'echo why >&2; exit 3']).catch((e: unknown) => e);
    expect(error).toBeInstanceOf(ProcessError);
    expect(error).toMatchObject({ stderr: 'why', message: expect.stringContaining('exit code 3\nwhy') });
  });

  it('rejects for a program that does not exist', async () => {
    await expect(run('/no/such/program', [])).rejects.toThrow('ENOENT');
  });

  it('ends the program when aborted', async () => {
    const abort = new AbortController();
    const started = performance.now();
    setTimeout(() => abort.abort(new Error('enough')), 50);
    await expect(run('sleep', ['30'], { signal: abort.signal })).rejects.toThrow('enough');
    expect(performance.now() - started).toBeLessThan(10_000);
  });
});

describe('start', () => {
  it('waits until the program is ready, logs to a file, and ends it', async () => {
    const logPath = join(scratch, 'ready.log');
    const ready = join(scratch, 'ready');
    const started = await start('sh', ['-c', 'echo begin; sleep 0.2; touch "$0"; exec sleep 30', ready], {
      logPath,
      readyWhen: () => existsSync(ready),
    });
    expect(isAlive(started.pid)).toBe(true);
    expect(readFileSync(logPath, 'utf8')).toBe('begin\n');
    await started.stop();
    expect(await started.ended).toBe('SIGTERM');
    expect(isAlive(started.pid)).toBe(false);
    await started.stop();
  });

  it('rejects with the log of a program that ends before it is ready', async () => {
    const starting = start('sh', ['-c', 'echo broken >&2; exit 1'], {
      logPath: join(scratch, 'broken.log'),
      readyWhen: () => false,
    });
    await expect(starting).rejects.toThrow(/ended before it was ready: exit code 1\nbroken/);
  });

  it('ends a program that does not become ready in time', async () => {
    const pidFile = join(scratch, 'pid');
    const starting = start('sh', ['-c', 'echo $$ >"$0"; exec sleep 30', pidFile], {
      logPath: join(scratch, 'slow.log'),
      readyWhen: () => Promise.reject(new Error('not yet')),
      readyTimeoutMs: 300,
    });
    await expect(starting).rejects.toThrow('not ready after 300 ms');
    expect(isAlive(Number(readFileSync(pidFile, 'utf8')))).toBe(false);
  });

  it('ends a program when aborted before it is ready', async () => {
    const abort = new AbortController();
    setTimeout(() => abort.abort(new Error('enough')), 50);
    const starting = start('sleep', ['30'], {
      logPath: join(scratch, 'aborted.log'),
      readyWhen: () => false,
      signal: abort.signal,
    });
    await expect(starting).rejects.toThrow('enough');
  });
});

describe('freePort', () => {
  it('gives a port on which nobody listens', async () => {
    const port = await freePort();
    const error = await new Promise((resolve) => connect(port, '127.0.0.1').once('error', resolve));
    expect(error).toMatchObject({ code: 'ECONNREFUSED' });
  });
});
