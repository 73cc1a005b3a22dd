import { formatBytes, formatTable } from '../src/cli/output.ts';
import type { StartUp } from './start-up.ts';
import { formatSeconds } from './steps.ts';

/** All that the demo measured. Sizes in bytes, times in milliseconds. */
export interface Results {
  readonly image: {
    readonly digest: string;
    readonly layers: number;
    readonly compressedBytes: number;
    readonly uncompressedBytes: number;
  };
  /** Through the proxy for the first time, while it fetched from upstream. */
  readonly firstPull: { readonly digest: string; readonly ms: number };
  /** `ms` counts from the start of the first pull, which it goes along with. */
  readonly conversion: { readonly digest: string; readonly bytes: number; readonly ms: number };
  readonly inFull: StartUp;
  readonly lazily: StartUp;
}

/** What follows from the results. */
export interface Ratios {
  /** Of what the full pull fetched. */
  readonly bytesFetchedShare: number;
  readonly timesSooner: number;
  readonly conversionMegabytesPerSecond: number;
}

export function ratios({ image, conversion, inFull, lazily }: Results): Ratios {
  return {
    bytesFetchedShare: lazily.bytesFetched / inFull.bytesFetched,
    timesSooner: inFull.firstOutputMs / lazily.firstOutputMs,
    conversionMegabytesPerSecond: image.uncompressedBytes / conversion.ms / 1000,
  };
}

export function resultTable(results: Results): string {
  const { image, firstPull, conversion, inFull, lazily } = results;
  const { bytesFetchedShare, timesSooner, conversionMegabytesPerSecond } = ratios(results);
  const percent = (share: number) => `${(100 * share).toFixed(1)} %`;
  const sizes = `${formatBytes(image.uncompressedBytes)} unpacked, ${formatBytes(image.compressedBytes)} compressed`;
  const share = percent(conversion.bytes / image.compressedBytes);
  const rows = [
    ['image', `${image.layers} layers, ${sizes}`],
    [
      'pulled unchanged',
      `${formatSeconds(firstPull.ms)} through the proxy, ${image.digest.slice(0, 19)}… as upstream`,
    ],
    ['converted', `${formatBytes(conversion.bytes)}, ${share} of the original's compressed size`],
    [
      'ready after',
      `${formatSeconds(conversion.ms)} from the start of that pull: ${Math.round(conversionMegabytesPerSecond)} MB/s of unpacked data`,
    ],
  ];
  const fetched = `${formatBytes(lazily.bytesFetched)} (${percent(bytesFetchedShare)})`;
  const comparison = [
    ['root file system ready', formatSeconds(inFull.preparedMs), formatSeconds(lazily.preparedMs)],
    ["program's first output", formatSeconds(inFull.firstOutputMs), formatSeconds(lazily.firstOutputMs)],
    ['bytes fetched', formatBytes(inFull.bytesFetched), fetched],
  ];
  return `${formatTable(['', ''], rows).trimStart()}

${formatTable(['', 'pull and unpack in full', 'dadi mount'], comparison)}

The program gave its first output ${timesSooner.toFixed(1)} times sooner. Both were measured in this run, over loopback, from the
same proxy, which had everything in its store. In full: skopeo copy, umoci unpack, and the program in a chroot.
Lazily: dadi mount with an empty cache, and the program in a chroot.`;
}
