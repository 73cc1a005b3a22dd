import { pino } from 'pino';
import { beforeEach, expect, test, vi } from 'vitest';
import { type Digest, digestOf } from '../../oci/digest.ts';
import { ChainLeases } from './chain-leases.ts';

const CHAIN = digestOf('chain');
const never = new AbortController().signal;
const log = pino({ level: 'silent' });

/** What processes share: leases by name, and finished chains. */
let leases: Map<string, { owner: string; untilMs: number }>;
let finished: Map<Digest, string>;

beforeEach(() => {
  leases = new Map();
  finished = new Map();
});

/** One process's view. */
function process(owner: string, { leaseMs = 60_000 } = {}): ChainLeases {
  return new ChainLeases({
    profile: 'p',
    leaseMs,
    log,
    leases: {
      take: async (name, untilMs, nowMs) => {
        const known = leases.get(name);
        if (known !== undefined && known.owner !== owner && known.untilMs > nowMs) return false;
        leases.set(name, { owner, untilMs });
        return true;
      },
      release: async (name) => {
        if (leases.get(name)?.owner === owner) leases.delete(name);
      },
    },
  });
}

const known = async () => finished.get(CHAIN) ?? null;

function working() {
  const gate = Promise.withResolvers<void>();
  const begun = vi.fn();
  const work = async (signal: AbortSignal) => {
    begun();
    await Promise.race([
      gate.promise,
      new Promise((_resolve, reject) => signal.addEventListener('abort', () => reject(signal.reason))),
    ]);
    finished.set(CHAIN, 'made');
    return 'made';
  };
  return { work, begun, finish: () => gate.resolve(), fail: (error: Error) => gate.reject(error) };
}

test('a chain is made once by one process, and who waited is given what came of it', async () => {
  const one = process('one');
  const [first, second] = [working(), working()];
  const both = [one.once(CHAIN, known, first.work, never), one.once(CHAIN, known, second.work, never)];
  await vi.waitFor(() => expect(first.begun).toHaveBeenCalled(), 30_000);
  first.finish();
  expect(await Promise.all(both)).toEqual(['made', 'made']);
  expect(second.begun).not.toHaveBeenCalled();
  expect(leases.size).toBe(0);
});

test('a chain is made once among processes', async () => {
  const [first, second] = [working(), working()];
  const made = process('one').once(CHAIN, known, first.work, never);
  await vi.waitFor(() => expect(first.begun).toHaveBeenCalled(), 30_000);
  const other = process('two').once(CHAIN, known, second.work, never);
  first.finish();
  expect(await Promise.all([made, other])).toEqual(['made', 'made']);
  expect(second.begun).not.toHaveBeenCalled();
});

test('who waited for one that failed makes it itself', async () => {
  const one = process('one');
  const [first, second] = [working(), working()];
  const failing = one.once(CHAIN, known, first.work, never);
  await vi.waitFor(() => expect(first.begun).toHaveBeenCalled(), 30_000);
  const other = one.once(CHAIN, known, second.work, never);
  second.finish();
  first.fail(new Error('broken'));
  await expect(failing).rejects.toThrow('broken');
  expect(await other).toBe('made');
  expect(second.begun).toHaveBeenCalledTimes(1);
});

test('a chain that a process died of is taken up when its lease ends', async () => {
  const untilMs = Date.now() + 300;
  leases.set(`chain:p:${CHAIN}`, { owner: 'dead', untilMs });
  const mine = working();
  mine.finish();
  expect(await process('one').once(CHAIN, known, mine.work, never)).toBe('made');
  expect(Date.now()).toBeGreaterThanOrEqual(untilMs);
});

test('a chain whose lease was lost is given up, and then waited for', async () => {
  const mine = working();
  const made = process('one', { leaseMs: 30 }).once(CHAIN, known, mine.work, never);
  await vi.waitFor(() => expect(mine.begun).toHaveBeenCalled(), 30_000);
  leases.set(`chain:p:${CHAIN}`, { owner: 'two', untilMs: Date.now() + 60_000 });
  await vi.waitFor(() => expect(leases.get(`chain:p:${CHAIN}`)?.owner).toBe('two'), 30_000);
  finished.set(CHAIN, "two's");
  expect(await made).toBe("two's");
  expect(mine.begun).toHaveBeenCalledTimes(1);
  expect(leases.get(`chain:p:${CHAIN}`)?.owner).toBe('two');
});

test('who waits stops when it is told to', async () => {
  leases.set(`chain:p:${CHAIN}`, { owner: 'two', untilMs: Date.now() + 60_000 });
  const stop = new AbortController();
  const waiting = process('one').once(CHAIN, known, working().work, stop.signal);
  stop.abort(new Error('enough'));
  await expect(waiting).rejects.toThrow();
});
