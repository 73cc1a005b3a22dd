/**
 * One stage of a conversion alone, on the layers that are given, in one thread: what it costs at least. A process of
 * its own, so that several can run at once. Prints JSON: seconds of the work itself, without the program's start.
 * Usage: node bench/stage.ts STAGE ALGORITHM LEVEL BLOCK-SIZE FILE...
 */
import { createHash, hash } from 'node:crypto';
import { closeSync, openSync, readSync, rmSync, writeSync } from 'node:fs';
import process from 'node:process';
import { decoderOf } from '../src/format/decoder-of.ts';
import { TarReader } from '../src/format/tar-reader.ts';
import { BlockCompressor, type BlockOptions } from '../src/format/zfile-blocks.ts';

const PIECE_BYTES = 256 * 1024;
const [stage = '', algorithm = '', level, blockSize, ...paths] = process.argv.slice(2);
const options: BlockOptions = {
  algorithm: algorithm === 'lz4' ? 'lz4' : 'zstd',
  level: Number(level),
  blockSize: Number(blockSize),
};

function pieces(path: string, take: (piece: Buffer) => void): void {
  const fd = openSync(path, 'r');
  const buffer = Buffer.allocUnsafe(PIECE_BYTES);
  for (let count = readSync(fd, buffer); count > 0; count = readSync(fd, buffer))
    take(buffer.subarray(0, count));
  closeSync(fd);
}

/** Unpacks all layers; the time that `take` needs is not of interest if `seconds` counts it alone. */
function unpack(take: (tar: Buffer) => void): void {
  for (const path of paths) {
    let decoder: ReturnType<typeof decoderOf> | null = null;
    pieces(path, (piece) => {
      decoder ??= decoderOf(piece);
      decoder.write(piece, take);
    });
  }
}

/** Runs `work` on each piece of the tars and counts its own time only. */
function timed(work: (tar: Buffer) => void): number {
  let milliseconds = 0;
  unpack((tar) => {
    const start = performance.now();
    work(tar);
    milliseconds += performance.now() - start;
  });
  return milliseconds;
}

function time(work: () => void): number {
  const start = performance.now();
  work();
  return performance.now() - start;
}

const STAGES: Readonly<Record<string, () => number>> = {
  'read and hash the layer': () =>
    time(() => {
      for (const path of paths) {
        const file = createHash('sha256');
        pieces(path, (piece) => file.update(piece));
        file.digest();
      }
    }),
  unpack: () => time(() => unpack(() => {})),
  'hash the tar': () => {
    const tarHash = createHash('sha256');
    return timed((tar) => tarHash.update(tar));
  },
  'read the tar': () => {
    let milliseconds = 0;
    for (const path of paths) {
      const nothing = { entry: () => {}, data: () => {}, hole: () => {}, end: () => {} };
      const reader = new TarReader(nothing);
      let decoder: ReturnType<typeof decoderOf> | null = null;
      pieces(path, (piece) => {
        decoder ??= decoderOf(piece);
        decoder.write(piece, (tar) => {
          milliseconds += time(() => reader.write(tar));
        });
      });
    }
    return milliseconds;
  },
  'compress, with checksums': () => {
    const blocks = new BlockCompressor(options);
    const output = Buffer.allocUnsafe(blocks.bound(PIECE_BYTES));
    const lengths = new Uint32Array(PIECE_BYTES / options.blockSize);
    const input = Buffer.allocUnsafe(PIECE_BYTES);
    let filled = 0;
    let milliseconds = 0;
    unpack((tar) => {
      for (let at = 0; at < tar.length; ) {
        const taken = tar.copy(input, filled, at);
        at += taken;
        filled += taken;
        if (filled < PIECE_BYTES) continue;
        milliseconds += time(() => blocks.compress(input, output, lengths));
        filled = 0;
      }
    });
    return milliseconds + time(() => blocks.compress(input.subarray(0, filled), output, lengths));
  },
  'hash the blob': () => {
    const whole = createHash('sha256');
    return time(() => {
      for (const path of paths) {
        pieces(path, (piece) => {
          whole.update(piece);
          hash('sha256', piece);
        });
      }
    });
  },
  'write the blob': () => {
    const target = `${paths[0]}.copy-${process.pid}`;
    const out = openSync(target, 'wx');
    let milliseconds = 0;
    for (const path of paths) {
      pieces(path, (piece) => {
        milliseconds += time(() => writeSync(out, piece));
      });
    }
    closeSync(out);
    rmSync(target);
    return milliseconds;
  },
};

const run = STAGES[stage];
if (run === undefined) throw new Error(`no stage: ${stage}; there are: ${Object.keys(STAGES).join(', ')}`);
console.log(JSON.stringify({ seconds: run() / 1000 }));
