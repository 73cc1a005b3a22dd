import { expect, test } from 'vitest';
import { type Farewell, type Served, serveConnections } from './nbd-connections.ts';

const lost = { farewell: Promise.resolve<Farewell>('lost') };
const goodbye = { farewell: Promise.resolve<Farewell>('goodbye') };
const broken = { farewell: Promise.reject<Farewell>(new Error('a bug')) };
broken.farewell.catch(() => {});

/** Serves what `connect` gives, one after the other; tells what failed, and what was never asked for. */
async function serve(first: Served, connections: (Served | Error)[], isWanted = async () => true) {
  const failures: unknown[] = [];
  const connect = async () => {
    const next = connections.shift();
    if (next === undefined) throw new Error('there is no more');
    if (next instanceof Error) throw next;
    return next;
  };
  const onFailure = (error: unknown) => failures.push(error);
  await serveConnections(first, { isWanted, connect, onFailure }, { pauseMs: 1 });
  return { failures, left: connections.length };
}

test('a connection that is lost gets a successor, also after some that failed', async () => {
  const [refused, full] = [new Error('EBUSY'), new Error('EMFILE')];
  expect(await serve(lost, [lost, refused, full, lost, broken, goodbye, lost])).toEqual({
    failures: [refused, full, new Error('a bug')],
    left: 1,
  });
});

test('a device that is gone gets none, however that is learned', async () => {
  expect(await serve(lost, [goodbye], async () => false)).toEqual({ failures: [], left: 1 });
  const asked = ['wanted', 'gone'];
  const refused = new Error('EINVAL');
  expect(await serve(lost, [refused, goodbye], async () => asked.shift() === 'wanted')).toEqual({
    failures: [refused],
    left: 1,
  });
});
