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
  readonly conversion: { readonly digest: string; readonly bytes: number; readonly ms: number };
  readonly inFull: StartUp;
  readonly lazily: StartUp;
}

export function resultTable({ image, firstPull, conversion, inFull, lazily }: Results): string {
  const percent = (part: number, whole: number) => `${((100 * part) / whole).toFixed(1)} %`;
  const rows = [
    [
      'image',
      `${image.layers} layers, ${formatBytes(image.uncompressedBytes)} unpacked, ${formatBytes(image.compressedBytes)} compressed`,
    ],
    [
      'pulled through the proxy',
      `${image.digest.slice(0, 19)}…, the same digest as upstream, in ${formatSeconds(firstPull.ms)}`,
    ],
    [
      'converted',
      `${formatBytes(conversion.bytes)} (${percent(conversion.bytes, image.compressedBytes)} of the original) in ${formatSeconds(conversion.ms)}, ${Math.round(image.uncompressedBytes / conversion.ms / 1000)} MB/s of unpacked data`,
    ],
  ];
  const comparison = [
    ['root file system ready', formatSeconds(inFull.preparedMs), formatSeconds(lazily.preparedMs)],
    ["program's first output", formatSeconds(inFull.firstOutputMs), formatSeconds(lazily.firstOutputMs)],
    [
      'bytes fetched',
      formatBytes(inFull.bytesFetched),
      `${formatBytes(lazily.bytesFetched)} (${percent(lazily.bytesFetched, inFull.bytesFetched)})`,
    ],
  ];
  const ratio = (inFull.firstOutputMs / lazily.firstOutputMs).toFixed(1);
  return `${formatTable(['', ''], rows).trimStart()}

${formatTable(['', 'pull and unpack in full', 'dadi mount'], comparison)}

The program gave its first output ${ratio} times sooner. Both were measured in this run, from the same proxy, which had
everything in its store, over loopback: the full way is skopeo copy, umoci unpack and the program in a chroot; the lazy
way is dadi mount with an empty cache and the same program in a chroot.`;
}
