/** Small images that containers really run from: one static program, busybox, and what a test puts beside it. */
import { readFileSync } from 'node:fs';
import { gzipSync } from 'node:zlib';
import { digestOf } from '../../src/oci/digest.ts';
import { OCI_GZIP } from './layer-forms.ts';
import { type MadeLayer, type MadeManifest, makeImage } from './made-image.ts';
import { randomBytes } from './random-bytes.ts';
import { END_BLOCKS, tarMember } from './tar-blocks.ts';

/** Of Debian's busybox-static: needs no other file of its image. */
const BUSYBOX = '/bin/busybox';
const COMMANDS = [
  'cat',
  'find',
  'head',
  'ls',
  'md5sum',
  'mkdir',
  'rm',
  'sh',
  'sha256sum',
  'sleep',
  'sort',
  'tar',
  'true',
  'wc',
];

export interface BusyboxImage extends MadeManifest {
  /** SHA-256 in hex of each {@link randomFile}. */
  readonly contents: readonly string[];
}

export interface BusyboxImageOptions {
  /** How many files there are that no compressor makes smaller. */
  readonly randomFiles?: number;
  /** Of each of them. */
  readonly randomBytes?: number;
  /** Images with the same one share their lowest layer, the one with busybox. */
  readonly base?: number;
}

/** The paths of the files that make an image as large as it is. */
export function randomFile(at: number): string {
  return `/data/random-${at}`;
}

/** Three layers: busybox, files of which some are hidden by the third, and that. No two seeds share the upper two. */
export function busyboxImage(seed: number, options: BusyboxImageOptions = {}): BusyboxImage {
  const { randomFiles = 1, randomBytes: bytes = 600_000, base = seed } = options;
  const contents = Array.from({ length: randomFiles }, (_, at) => randomBytes(bytes, seed * 1000 + at));
  const tars = [baseTar(base), middleTar(seed, contents), topTar(seed)];
  const config = { config: { Cmd: ['/bin/true'], Env: ['PATH=/bin'] } };
  return {
    ...makeImage(tars.map(gzipped), { config }),
    contents: contents.map((content) => digestOf(content).slice('sha256:'.length)),
  };
}

/** What holds a pod's namespaces: sleeps. */
export function pauseImage(): MadeManifest {
  const tars = [baseTar(0)];
  return makeImage(tars.map(gzipped), { config: { config: { Entrypoint: ['/bin/sleep', '1000000'] } } });
}

function gzipped(tar: Buffer): MadeLayer {
  return { mediaType: OCI_GZIP, bytes: gzipSync(new Uint8Array(tar)), diffId: digestOf(tar) };
}

function baseTar(seed: number): Buffer {
  const links = COMMANDS.map((name) => tarMember({ path: `bin/${name}`, type: '2', linkTarget: 'busybox' }));
  return Buffer.concat([
    tarMember({ path: 'bin/', type: '5', mode: 0o755 }),
    tarMember({ path: 'bin/busybox', mode: 0o755 }, readFileSync(BUSYBOX)),
    ...links,
    tarMember({ path: 'etc/', type: '5', mode: 0o755 }),
    tarMember({ path: 'etc/base' }, `base ${seed}\n`),
    tarMember({ path: 'tmp/', type: '5', mode: 0o1777 }),
    END_BLOCKS,
  ]);
}

function middleTar(seed: number, contents: readonly Buffer[]): Buffer {
  return Buffer.concat([
    tarMember({ path: 'etc/', type: '5', mode: 0o755 }),
    tarMember({ path: 'etc/name', uid: 7, gid: 8 }, `middle ${seed}\n`),
    tarMember({ path: 'etc/old' }, 'to be removed'),
    tarMember({ path: 'etc/d/', type: '5', mode: 0o750 }),
    tarMember({ path: 'etc/d/hidden' }, 'to be hidden'),
    tarMember({ path: 'data/', type: '5', mode: 0o755 }),
    ...contents.map((content, at) => tarMember({ path: randomFile(at).slice(1) }, content)),
    END_BLOCKS,
  ]);
}

function topTar(seed: number): Buffer {
  return Buffer.concat([
    tarMember({ path: 'etc/', type: '5', mode: 0o755 }),
    tarMember({ path: 'etc/name', uid: 7, gid: 8 }, `top ${seed}\n`),
    tarMember({ path: 'etc/.wh.old' }),
    tarMember({ path: 'etc/d/', type: '5', mode: 0o750 }),
    tarMember({ path: 'etc/d/.wh..wh..opq' }),
    tarMember({ path: 'etc/d/new' }, 'seen'),
    END_BLOCKS,
  ]);
}
