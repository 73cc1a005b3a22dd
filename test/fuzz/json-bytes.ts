/** Changes to JSON documents that leave them JSON, most of the time. */
import { mutate } from './mutate.ts';
import type { Random } from './random.ts';

type Json = null | boolean | number | string | Json[] | { [key: string]: Json };

/** Stands for a value of many levels, which could not be made into text. */
const DEEP = 'deep';
const VALUES: readonly Json[] = [
  null,
  true,
  0,
  -1,
  1.5,
  2,
  9007199254740992,
  1e300,
  '',
  'x',
  'sha256:',
  `sha256:${'0'.repeat(64)}`,
  `sha512:${'a'.repeat(128)}`,
  `sha256:${'A'.repeat(64)}`,
  `sha999:${'0'.repeat(64)}`,
  '../../etc/passwd',
  'application/vnd.oci.image.layer.v1.tar+zstd',
  'application/vnd.docker.image.rootfs.foreign.diff.tar.gzip',
  'application/vnd.oci.image.layer.v1.tar+gzip+encrypted',
  'application/vnd.oci.image.index.v1+json',
  'application/vnd.docker.distribution.manifest.v1+prettyjws',
  'linux',
  '\ud800',
  'y'.repeat(5000),
  [],
  {},
  [[]],
  { digest: null },
  DEEP,
];
const KEYS = [
  '__proto__',
  'constructor',
  'toString',
  'mediaType',
  'config',
  'layers',
  'manifests',
  'digest',
  'size',
  'annotations',
  'subject',
  'rootfs',
  'diff_ids',
  'platform',
  'urls',
  'schemaVersion',
];
const DEEP_JSON = `${'['.repeat(20_000)}${']'.repeat(20_000)}`;

/** Replaces, adds, doubles and takes away values of a document; now and then its bytes. */
export function mutateJson(document: Buffer, random: Random, other: Buffer): Buffer {
  if (random.oneIn(6)) return mutate(document, random, { other });
  const json = JSON.parse(document.toString()) as Json;
  const otherJson = JSON.parse(other.toString()) as Json;
  for (let changes = 1 + random.below(4); changes > 0; changes--)
    change(random.pick(holders(json)), random, otherJson);
  return Buffer.from(JSON.stringify(json).replace(`"${DEEP}"`, DEEP_JSON));
}

function change(holder: Json[] | { [key: string]: Json }, random: Random, other: Json): void {
  const value = structuredClone(random.oneIn(3) ? random.pick(holders(other)) : random.pick(VALUES));
  const keys = Object.keys(holder);
  const key = keys.length === 0 || random.oneIn(5) ? random.pick(KEYS) : random.pick(keys);
  if (Array.isArray(holder)) {
    const index = random.below(holder.length + 1);
    const way = random.below(3);
    if (way === 0) holder.splice(index, 1);
    else if (way === 1) holder.push(...structuredClone(holder.slice(0, 100)));
    else holder[index] = value;
  } else if (random.oneIn(4)) {
    delete holder[key];
  } else {
    Object.defineProperty(holder, key, { value, enumerable: true, configurable: true, writable: true });
  }
}

function holders(json: Json): (Json[] | { [key: string]: Json })[] {
  if (typeof json !== 'object' || json === null) return [];
  return [json, ...Object.values(json).flatMap(holders)];
}
