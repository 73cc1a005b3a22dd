/** A thread of `experiment`: runs the scenario that it is given, and says what came of it. */
import { parentPort, workerData } from 'node:worker_threads';
import { type Scenario, simulate } from './swarm.ts';

/** Rejections are without number here, and their stacks nobody looks at. */
Error.stackTraceLimit = 0;

parentPort!.postMessage(await simulate(workerData as Scenario));
