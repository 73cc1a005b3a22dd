import { InvalidArgumentError, Option } from 'commander';
import { type ConversionLimits, DEFAULT_LIMITS } from '../convert/layer-limits.ts';
import { formatTable } from './output.ts';

/** What `--limit` was given, over the defaults or the configuration file. */
export type LimitFlags = Partial<ConversionLimits>;

const MEANINGS: Readonly<Record<keyof ConversionLimits, string>> = {
  imageLayers: 'layers of an image',
  imageBytes: 'unpacked bytes of an image',
  imageSeconds: 'time for the conversion of an image',
  indexImages: 'images of an index',
  layerBytes: 'unpacked bytes of a layer, holes of sparse files included',
  layerEntries: 'entries of a layer',
  layerMetadataBytes: 'memory for names, link targets and xattrs of a layer',
  expansionRatio: 'unpacked bytes for each compressed one, of a layer and of an image',
  expansionFreeBytes: 'unpacked bytes up to which the ratio does not count',
  fileBytes: 'bytes of a file, its holes included',
  pathDepth: 'names in a path',
  entryXattrBytes: "bytes of an entry's xattrs",
  minFreeBytes: 'bytes that conversions leave free on the disk',
};
const UNITS: Readonly<Record<string, number>> = { '': 1, k: 1e3, M: 1e6, G: 1e9, T: 1e12 };

/** `--limit NAME=VALUE`, repeatable. */
export function limitOption(): Option {
  return new Option(
    '--limit <name=value>',
    'what a conversion may cost at most, see below; repeatable',
  ).argParser(addLimits);
}

/** For the end of a command's help: the limits, what they mean, their defaults. */
export function limitsHelp(): string {
  const names = Object.keys(MEANINGS) as (keyof ConversionLimits)[];
  const rows = names.map((name) => [`  ${name}`, withUnit(DEFAULT_LIMITS[name]), MEANINGS[name]]);
  return `\nLimits (k, M, G and T stand for thousands, as in --limit layerBytes=300G):\n${formatTable(['  NAME', 'DEFAULT', 'OF'], rows)}`;
}

/** As it may be given. */
function withUnit(value: number): string {
  const [unit, size] = Object.entries(UNITS).findLast(([, each]) => value % each === 0) ?? ['', 1];
  return `${value / size}${unit}`;
}

/** Several may stand in one value, separated by spaces or commas: so they do in the environment. */
function addLimits(text: string, earlier: LimitFlags | undefined): LimitFlags {
  const limits: Record<string, number> = { ...earlier };
  for (const part of text.split(/[\s,]+/).filter((each) => each !== '')) {
    const [, name = '', digits = '', unit = ''] = /^(\w+)=(\d+(?:\.\d+)?)([kMGT]?)$/.exec(part) ?? [];
    if (!Object.hasOwn(MEANINGS, name)) {
      throw new InvalidArgumentError(
        `write NAME=NUMBER, where NAME is one of ${Object.keys(MEANINGS).join(', ')}`,
      );
    }
    limits[name] = Number(digits) * (UNITS[unit] ?? 1);
  }
  return limits;
}
