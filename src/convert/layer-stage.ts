import { closeSync, openSync, rmSync } from 'node:fs';
import { inlineTailLength } from '../format/erofs-writer.ts';
import type { Attributes, InlineTail, LayerEntry } from '../format/layer-entry.ts';
import { normaliseEntryPath, whiteoutOf } from '../format/layer-path.ts';
import type { TarEntry, TarHandler } from '../format/tar-reader.ts';
import type { BlockPacker } from './block-packer.ts';
import { readFully } from './file-io.ts';
import { FileSink } from './file-sink.ts';

/**
 * The first half of a layer's conversion: takes the archive's members as they come, passes their data on to
 * the packer and keeps the rest as a list of entries. Nothing here depends on the layers below.
 */
export class LayerStage implements TarHandler {
  readonly entries: LayerEntry[] = [];
  readonly #packer: BlockPacker;
  readonly #tails: TailSpool;
  #firstBlock = 0;
  /** Of the entry before: most have the same as their neighbours. */
  #attributes: Attributes | null = null;

  constructor(packer: BlockPacker, tails: TailSpool) {
    this.#packer = packer;
    this.#tails = tails;
  }

  entry(_entry: TarEntry): void {
    this.#firstBlock = this.#packer.nextBlock;
  }

  data(bytes: Buffer): void {
    this.#packer.write(bytes);
  }

  hole(lengthBytes: number): void {
    this.#packer.writeZeros(lengthBytes);
  }

  end(member: TarEntry): void {
    const path = normaliseEntryPath(member.path);
    const whiteout = whiteoutOf(path);
    if (whiteout !== null) {
      this.#packer.endFile(false);
      this.entries.push(whiteout);
      return;
    }
    this.entries.push(this.#toEntry(member, path));
  }

  #toEntry(member: TarEntry, path: string): LayerEntry {
    const attributes = this.#attributesOf(member);
    switch (member.type) {
      case 'file':
        return { kind: 'file', path, attributes, size: member.size, ...this.#endFile(member, attributes) };
      case 'directory':
        return { kind: 'directory', path, attributes };
      case 'symlink':
        return { kind: 'symlink', path, attributes, target: member.linkTarget };
      case 'hardlink':
        return { kind: 'hardlink', path, target: normaliseEntryPath(member.linkTarget), changes: attributes };
      case 'character':
      case 'block':
        return { kind: member.type, path, attributes, major: member.deviceMajor, minor: member.deviceMinor };
      case 'fifo':
        return { kind: 'fifo', path, attributes };
    }
  }

  /** Entries that follow one another share what is equal. */
  #attributesOf(member: TarEntry): Attributes {
    const last = this.#attributes;
    if (last !== null && haveSameAttributes(last, member)) return last;
    const { mode, uid, gid, mtimeSeconds, mtimeNanoseconds, xattrs } = member;
    this.#attributes = { mode, uid, gid, mtimeSeconds, mtimeNanoseconds, xattrs };
    return this.#attributes;
  }

  #endFile(member: TarEntry, attributes: Attributes): { firstBlock: number; inlineTail: InlineTail | null } {
    const tail = this.#packer.endFile(inlineTailLength(member.size, attributes.xattrs) > 0);
    const hasBlocks = this.#packer.nextBlock > this.#firstBlock;
    return {
      firstBlock: hasBlocks ? this.#firstBlock : 0,
      inlineTail: tail === null ? null : this.#tails.append(tail),
    };
  }
}

function haveSameAttributes(a: Attributes, b: Attributes): boolean {
  return (
    a.mode === b.mode &&
    a.uid === b.uid &&
    a.gid === b.gid &&
    a.mtimeSeconds === b.mtimeSeconds &&
    a.mtimeNanoseconds === b.mtimeNanoseconds &&
    // Without xattrs they are the same map.
    a.xattrs === b.xattrs
  );
}

/** The partial last blocks of small files, in a file of their own until their inodes have a place. */
export class TailSpool {
  readonly #path: string;
  readonly #sink: FileSink;
  readonly #fd: number;

  constructor(path: string) {
    this.#path = path;
    this.#sink = new FileSink(path);
    this.#fd = openSync(path, 'r');
  }

  append(bytes: Buffer): InlineTail {
    const offset = this.#sink.sizeBytes;
    this.#sink.write(bytes);
    return { offset, length: bytes.length };
  }

  /** Makes what was appended readable. */
  flush(): void {
    this.#sink.flush();
  }

  read(offset: number, target: Buffer): void {
    readFully(this.#fd, target, offset);
  }

  close(): void {
    this.#sink.close();
    closeSync(this.#fd);
    rmSync(this.#path, { force: true });
  }
}
