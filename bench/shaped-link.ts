/** A network namespace behind a link of a given speed: a registry that is not on the clients' machine. */
import { readFileSync } from 'node:fs';
import { run } from '../test/support/processes.ts';

const NAME = `dadi-bench-${process.pid}`;
const HERE = '10.213.7.1';
const THERE = '10.213.7.2';

export interface ShapedLink {
  /** The namespace's address. */
  readonly address: string;
  /** To be put before a command that is to run there. */
  readonly enter: readonly string[];
  /** What came over the link so far, with the headers of all protocols. */
  receivedBytes(): number;
  remove(): Promise<void>;
}

/** Needs root and iproute2. What is sent from there has `rate` (as tc writes it: `1gbit`). */
export async function shapedLink(rate: string): Promise<ShapedLink> {
  const [here, there] = [`${NAME.slice(-13)}h`, `${NAME.slice(-13)}t`];
  const inside = ['-n', NAME];
  const remove = async () => {
    await run('ip', ['netns', 'delete', NAME]);
  };
  await run('ip', ['netns', 'add', NAME]);
  try {
    await run('ip', ['link', 'add', here, 'type', 'veth', 'peer', 'name', there, 'netns', NAME]);
    await run('ip', ['address', 'add', `${HERE}/30`, 'dev', here]);
    await run('ip', ['link', 'set', here, 'up']);
    await run('ip', [...inside, 'address', 'add', `${THERE}/30`, 'dev', there]);
    await run('ip', [...inside, 'link', 'set', 'lo', 'up']);
    await run('ip', [...inside, 'link', 'set', there, 'up']);
    const shape = ['root', 'tbf', 'rate', rate, 'burst', '256kb', 'latency', '50ms'];
    await run('tc', [...inside, 'qdisc', 'add', 'dev', there, ...shape]);
  } catch (error) {
    await remove();
    throw error;
  }
  return {
    address: THERE,
    enter: ['nsenter', `--net=/run/netns/${NAME}`, '--'],
    receivedBytes: () => Number(readFileSync(`/sys/class/net/${here}/statistics/rx_bytes`, 'utf8')),
    remove,
  };
}
