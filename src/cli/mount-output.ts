import type { ConversionProgress } from '../client/image/conversion-wait.ts';
import type { MountState } from '../client/mount/mount-state.ts';
import { formatBytes, printJson } from './output.ts';

export function reportMount(state: MountState, { json }: { readonly json: boolean }): void {
  if (json) printJson(state);
  else console.log(`${state.image} is mounted on ${state.directory}`);
}

export function describeProgress({
  state,
  layersDone,
  layersTotal,
  bytesDone,
  bytesTotal,
}: ConversionProgress): string {
  if (state === 'queued') return 'waiting for the conversion to begin';
  const layers = `${layersDone} of ${layersTotal} layers`;
  return `being converted: ${layers}, ${formatBytes(bytesDone)} of ${formatBytes(bytesTotal)}`;
}
