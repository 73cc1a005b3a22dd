/** What a container reads while it starts: one step after the other, all runs of a step at the same time. */
export interface Trace {
  /** Chunks of each of the image's blobs. */
  readonly blobChunks: readonly number[];
  readonly steps: readonly (readonly Run[])[];
}

interface Run {
  readonly blob: number;
  readonly first: number;
  readonly count: number;
}

export function chunksOf({ steps }: Trace): number {
  return steps.flat().reduce((sum, { count }) => sum + count, 0);
}

/**
 * A start that reads as many chunks, out of a larger image: the same steps again and again, each time of other chunks,
 * until that many are read. So it has as many more steps as it reads more.
 */
export function lengthened(trace: Trace, chunks: number): Trace {
  const steps: Run[][] = [];
  let left = chunks;
  let times = 0;
  for (; left > 0; times++) {
    for (const step of trace.steps) {
      const runs = step.map(({ blob, first, count }) => ({
        ...{ blob, first: first + times * trace.blobChunks[blob]! },
        count: Math.min(count, left),
      }));
      if (left === 0) break;
      steps.push(runs.filter(({ count }) => count > 0));
      left = Math.max(0, left - chunksOf({ blobChunks: [], steps: [runs] }));
    }
  }
  return { blobChunks: trace.blobChunks.map((count) => count * times), steps };
}
