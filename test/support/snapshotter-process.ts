/** A snapshotter as a process of its own, to be killed: `node snapshotter-process.ts DIRECTORY`. */
import process from 'node:process';
import { startSnapshotter } from './snapshotter.ts';

await startSnapshotter(process.argv[2]!);
