import type { SegmentTable } from '../format/segments.ts';
import { SECTORS_PER_BLOCK } from './units.ts';

/** The longest an index entry's 14 bits can be, in whole blocks. */
const MAX_SECTORS = Math.floor(16_382 / SECTORS_PER_BLOCK) * SECTORS_PER_BLOCK;

/** Collects what lies where on the device, in sectors, in any order, for an LSMT index. */
export class SegmentBuilder {
  readonly #lba: number[] = [];
  readonly #length: number[] = [];
  readonly #data: number[] = [];

  /** `length` sectors at `lba` of the device stand at sector `data` of the layer's file. */
  add(lba: number, length: number, data: number): void {
    const last = this.#lba.length - 1;
    const lastLength = this.#length[last] ?? 0;
    if (last >= 0 && this.#lba[last]! + lastLength === lba && this.#data[last]! + lastLength === data) {
      this.#length[last] = lastLength + length;
      return;
    }
    this.#lba.push(lba);
    this.#length.push(length);
    this.#data.push(data);
  }

  /** Adds all of `other`, its device addresses moved up by `shift` sectors. */
  addShifted(other: SegmentBuilder, shift: number): void {
    for (let i = 0; i < other.#lba.length; i++) {
      this.add(other.#lba[i]! + shift, other.#length[i]!, other.#data[i]!);
    }
  }

  /** The index, sorted by device address, no entry longer than the format allows. */
  build(): SegmentTable {
    const order = Uint32Array.from(this.#lba.keys()).sort((a, b) => this.#lba[a]! - this.#lba[b]!);
    const count = this.#length.reduce((sum, length) => sum + Math.ceil(length / MAX_SECTORS), 0);
    const table = {
      count,
      lba: new Float64Array(count),
      length: new Uint16Array(count),
      data: new Float64Array(count),
      zeroed: new Uint8Array(count),
    };
    let next = 0;
    for (const from of order) {
      for (let done = 0; done < this.#length[from]!; done += MAX_SECTORS) {
        table.lba[next] = this.#lba[from]! + done;
        table.length[next] = Math.min(MAX_SECTORS, this.#length[from]! - done);
        table.data[next] = this.#data[from]! + done;
        next++;
      }
    }
    return table;
  }
}
