import { execFile } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { BufferSource } from '../../format/buffer-source.ts';
import { SourceError } from '../../format/byte-source.ts';
import type { BlockDevice, Extent } from './nbd-connection.ts';
import { NbdServer } from './nbd-server.ts';

const run = promisify(execFile);

let directory: string;
let server: NbdServer | null = null;

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'dadi-nbd-'));
});

afterEach(async () => {
  await server?.close();
  server = null;
  rmSync(directory, { recursive: true });
});

function pattern(length: number): Buffer {
  const bytes = Buffer.alloc(length);
  for (let i = 0; i < length; i++) bytes[i] = (i * 31 + (i >> 9) * 7 + (i >> 17)) & 255;
  return bytes;
}

async function serve(device: BlockDevice, exportName?: string): Promise<string> {
  server = await NbdServer.listen({
    device,
    socketPath: join(directory, 's'),
    ...(exportName === undefined ? {} : { exportName }),
  });
  return `nbd+unix:///?socket=${server.socketPath}`;
}

/** Bytes with holes: every odd stretch of 64 KiB is zeros that are never read. */
class HolySource extends BufferSource {
  readonly #bytes: Buffer;
  constructor(bytes: Buffer) {
    for (let at = 65536; at < bytes.length; at += 131072)
      bytes.fill(0, at, Math.min(at + 65536, bytes.length));
    super(bytes);
    this.#bytes = bytes;
  }
  *extents(offset: number, length: number): Iterable<Extent> {
    for (let at = offset; at < offset + length; ) {
      const end = Math.min(offset + length, (Math.floor(at / 65536) + 1) * 65536, this.#bytes.length);
      yield { offset: at, length: end - at, hole: Math.floor(at / 65536) % 2 === 1 };
      at = end;
    }
  }
}

/** A client that speaks bytes, for what well-behaved clients do not do. */
class RawClient {
  readonly #socket: Socket;
  #buffered = Buffer.alloc(0);
  #wake: () => void = () => {};
  ended = false;

  constructor(path: string) {
    this.#socket = connect(path);
    this.#socket.on('data', (bytes: Buffer) => {
      this.#buffered = Buffer.concat([this.#buffered, bytes]);
      this.#wake();
    });
    this.#socket.on('error', () => {});
    this.#socket.on('close', () => {
      this.ended = true;
      this.#wake();
    });
  }

  async take(length: number): Promise<Buffer> {
    while (this.#buffered.length < length) {
      if (this.ended) throw new Error('the server hung up');
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
    const bytes = this.#buffered.subarray(0, length);
    this.#buffered = this.#buffered.subarray(length);
    return bytes;
  }

  send(bytes: Buffer | string): void {
    this.#socket.write(typeof bytes === 'string' ? Buffer.from(bytes, 'hex') : bytes);
  }

  option(option: number, data: Buffer = Buffer.alloc(0)): void {
    const header = Buffer.alloc(16);
    header.write('IHAVEOPT', 'latin1');
    header.writeUInt32BE(option, 8);
    header.writeUInt32BE(data.length, 12);
    this.send(Buffer.concat([header, data]));
  }

  async optionReply(): Promise<{ type: number; data: Buffer }> {
    const header = await this.take(20);
    return { type: header.readUInt32BE(12), data: await this.take(header.readUInt32BE(16)) };
  }

  /** Greeting, flags, and the default export in transmission with simple replies. */
  async go(): Promise<{ size: bigint; flags: number }> {
    await this.take(18);
    this.send('00000003');
    this.option(1);
    const answer = await this.take(10);
    return { size: answer.readBigUInt64BE(0), flags: answer.readUInt16BE(8) };
  }

  request(type: number, cookie: number, offset: number, length: number): void {
    const bytes = Buffer.alloc(28);
    bytes.writeUInt32BE(0x25609513, 0);
    bytes.writeUInt16BE(type, 6);
    bytes.writeBigUInt64BE(BigInt(cookie), 8);
    bytes.writeBigUInt64BE(BigInt(offset), 16);
    bytes.writeUInt32BE(length, 24);
    this.send(bytes);
  }

  async simpleReply(): Promise<{ errno: number; cookie: number }> {
    const bytes = await this.take(16);
    expect(bytes.readUInt32BE(0)).toBe(0x67446698);
    return { errno: bytes.readUInt32BE(4), cookie: Number(bytes.readBigUInt64BE(8)) };
  }

  close(): void {
    this.#socket.destroy();
  }
}

describe('real clients', () => {
  test('nbdinfo is told size, read-only, multi-conn, DF and block sizes', async () => {
    const uri = await serve(new BufferSource(pattern(1_000_448)));
    const { stdout } = await run('nbdinfo', ['--json', uri]);
    const info = JSON.parse(stdout);
    expect(info.protocol).toBe('newstyle-fixed');
    expect(info.structured).toBe(true);
    expect(info.exports[0]).toMatchObject({
      'export-size': 1_000_448,
      is_read_only: true,
      can_multi_conn: true,
      can_df: true,
      can_flush: true,
      can_trim: false,
      block_size_minimum: 1,
      block_size_preferred: 4096,
      block_size_maximum: 32 * 1024 * 1024,
    });
  });

  test('nbdinfo --list shows the export, and another name is refused', async () => {
    const uri = await serve(new BufferSource(pattern(512)), 'image');
    const { stdout } = await run('nbdinfo', ['--list', '--json', uri]);
    expect(JSON.parse(stdout).exports[0]['export-name']).toBe('image');
    await run('nbdinfo', ['--size', uri.replace('///', '///image')]);
    await expect(run('nbdinfo', ['--size', uri.replace('///', '///other')])).rejects.toThrow();
  });

  test('nbdcopy over several connections gets equal bytes, with and without holes', async () => {
    for (const device of [
      new BufferSource(pattern(9_000_448)),
      new HolySource(pattern(9_000_448)),
    ] as BlockDevice[]) {
      const uri = await serve(device);
      const copy = join(directory, 'copy');
      await run('nbdcopy', ['--connections=4', '--requests=16', uri, copy]);
      const expected = Buffer.alloc(device.size);
      await device.read(0, expected);
      expect(readFileSync(copy).equals(expected)).toBe(true);
      rmSync(copy);
      await server?.close();
    }
  });

  test('qemu-io reads unaligned ranges with the right pattern', async () => {
    const bytes = Buffer.alloc(1024 * 1024, 0xab);
    const uri = await serve(new BufferSource(bytes));
    const { stdout } = await run('qemu-io', [
      '-r',
      '-f',
      'raw',
      '-c',
      'read -P 0xab 1 511',
      '-c',
      'read -P 0xab 4095 70001',
      uri,
    ]);
    expect(stdout).toContain('read 511/511 bytes');
    expect(stdout).toContain('read 70001/70001 bytes');
    expect(stdout).not.toContain('failed');
  });

  test('qemu-img finds the image identical', async () => {
    const bytes = pattern(3 * 1024 * 1024);
    writeFileSync(join(directory, 'raw'), bytes);
    const uri = await serve(new HolySource(pattern(3 * 1024 * 1024)));
    const copy = join(directory, 'copy');
    await run('qemu-img', ['convert', '-f', 'raw', '-O', 'raw', uri, copy]);
    const { stdout } = await run('qemu-img', ['compare', '-f', 'raw', '-F', 'raw', uri, copy]);
    expect(stdout).toContain('Images are identical');
  });

  test('a failed read is an I/O error for the client, and the connection lives on', async () => {
    class Broken extends BufferSource {
      override async read(offset: number, target: Buffer): Promise<void> {
        if (offset >= 4096) throw new SourceError('ERR_SOURCE_CORRUPT', 'chunk 7 is not what it should be');
        await super.read(offset, target);
      }
    }
    const uri = await serve(new Broken(Buffer.alloc(8192, 0x11)));
    // Without -c, qemu-io takes its commands from its input and goes on after an error.
    const child = run('qemu-io', ['-r', '-f', 'raw', uri]);
    child.child.stdin?.end('read 4096 512\nread -P 0x11 0 512\n');
    const { stdout, stderr } = await child.catch((error) => error);
    expect(stdout + stderr).toContain('Input/output error');
    expect(stdout).toContain('read 512/512 bytes at offset 0');
  });
});

describe('raw frames', () => {
  test('sixteen reads in flight are answered as they finish, not in order', async () => {
    const bytes = pattern(65536);
    class Slow extends BufferSource {
      override async read(offset: number, target: Buffer): Promise<void> {
        await new Promise((resolve) => setTimeout(resolve, 200 - offset / 256));
        await super.read(offset, target);
      }
    }
    await serve(new Slow(bytes));
    const client = new RawClient(join(directory, 's'));
    const { size, flags } = await client.go();
    expect(size).toBe(65536n);
    expect(flags & 2).toBe(2);
    for (let i = 0; i < 16; i++) client.request(0, i, i * 2048 + 1, 700);
    const order: number[] = [];
    for (let i = 0; i < 16; i++) {
      const { errno, cookie } = await client.simpleReply();
      expect(errno).toBe(0);
      order.push(cookie);
      const at = cookie * 2048 + 1;
      expect((await client.take(700)).equals(bytes.subarray(at, at + 700))).toBe(true);
    }
    expect(order[0]).not.toBe(0);
    expect(order.toSorted((a, b) => a - b)).toEqual(Array.from({ length: 16 }, (_, i) => i));
    client.close();
  });

  test('reads that need no waiting are answered between those that do', async () => {
    const bytes = pattern(4 * 1024 * 1024);
    let ready = 0;
    class HalfReady extends BufferSource {
      readNow(offset: number, target: Buffer): boolean {
        if (Math.floor(offset / 4096) % 3 === 0) return false;
        ready++;
        bytes.copy(target, 0, offset);
        return true;
      }
    }
    await serve(new HalfReady(bytes));
    const client = new RawClient(join(directory, 's'));
    await client.go();
    const lengths = [1, 4096, 65_536, 200_000];
    const offsetOf = (cookie: number) => (cookie * 37 * 4096) % (3 * 1024 * 1024);
    for (let cookie = 0; cookie < 200; cookie++)
      client.request(0, cookie, offsetOf(cookie), lengths[cookie % 4]!);
    const seen = new Set<number>();
    while (seen.size < 200) {
      const { errno, cookie } = await client.simpleReply();
      expect(errno).toBe(0);
      seen.add(cookie);
      const [at, length] = [offsetOf(cookie), lengths[cookie % 4]!];
      expect((await client.take(length)).equals(bytes.subarray(at, at + length))).toBe(true);
    }
    expect(ready).toBeGreaterThan(100);
    client.close();
  });

  test('writes are EPERM, reads past the end or over 32 MiB EINVAL, and the frames stay in step', async () => {
    await serve(new BufferSource(pattern(8192)));
    const client = new RawClient(join(directory, 's'));
    await client.go();
    client.request(1, 1, 0, 100_000);
    client.send(Buffer.alloc(100_000));
    expect(await client.simpleReply()).toEqual({ errno: 1, cookie: 1 });
    client.request(4, 2, 0, 4096);
    expect(await client.simpleReply()).toEqual({ errno: 1, cookie: 2 });
    client.request(0, 3, 8000, 193);
    expect(await client.simpleReply()).toEqual({ errno: 22, cookie: 3 });
    client.request(0, 4, 0, 32 * 1024 * 1024 + 1);
    expect(await client.simpleReply()).toEqual({ errno: 22, cookie: 4 });
    client.request(3, 5, 0, 0);
    expect(await client.simpleReply()).toEqual({ errno: 0, cookie: 5 });
    client.request(99, 6, 0, 0);
    expect(await client.simpleReply()).toEqual({ errno: 22, cookie: 6 });
    client.request(0, 7, 8191, 1);
    expect(await client.simpleReply()).toEqual({ errno: 0, cookie: 7 });
    expect((await client.take(1))[0]).toBe(pattern(8192)[8191]);
    client.request(2, 8, 0, 0);
    await expect(client.take(1)).rejects.toThrow('hung up');
  });

  test.each([
    [
      'a request without its magic',
      async (client: RawClient) => {
        await client.go();
        client.send(Buffer.alloc(28, 7));
      },
    ],
    [
      'a write of more than 32 MiB',
      async (client: RawClient) => {
        await client.go();
        client.request(1, 1, 0, 33 * 1024 * 1024);
      },
    ],
    [
      'client flags that were not offered',
      async (client: RawClient) => {
        await client.take(18);
        client.send('00000010');
      },
    ],
    [
      'an option without its magic',
      async (client: RawClient) => {
        await client.take(18);
        client.send('00000003');
        client.send(Buffer.alloc(16, 1));
      },
    ],
    [
      'an unknown export by NBD_OPT_EXPORT_NAME',
      async (client: RawClient) => {
        await client.take(18);
        client.send('00000003');
        client.option(1, Buffer.from('nope'));
      },
    ],
  ])('%s ends the connection', async (_, speak) => {
    await serve(new BufferSource(pattern(8192)));
    const client = new RawClient(join(directory, 's'));
    await speak(client);
    await expect(client.take(1)).rejects.toThrow('hung up');
  });

  test('options that are unknown, malformed or too long are refused, and negotiation goes on', async () => {
    await serve(new BufferSource(pattern(8192)));
    const client = new RawClient(join(directory, 's'));
    await client.take(18);
    client.send('00000003');
    client.option(10, Buffer.alloc(12));
    expect((await client.optionReply()).type).toBe(0x80000001);
    client.option(7, Buffer.from('ffffffff0000', 'hex'));
    expect((await client.optionReply()).type).toBe(0x80000003);
    client.option(8, Buffer.alloc(1));
    expect((await client.optionReply()).type).toBe(0x80000003);
    client.option(5, Buffer.alloc(70_000));
    expect((await client.optionReply()).type).toBe(0x80000009);
    client.option(2);
    expect((await client.optionReply()).type).toBe(1);
    await expect(client.take(1)).rejects.toThrow('hung up');
  });

  test('a client that does not read its replies is not read from either', async () => {
    const REQUESTS = 40;
    let reads = 0;
    class Counting extends BufferSource {
      override async read(offset: number, target: Buffer): Promise<void> {
        reads++;
        await new Promise((resolve) => setTimeout(resolve, 100));
        await super.read(offset, target);
      }
    }
    await serve(new Counting(Buffer.alloc(8 * 1024 * 1024)));
    const path = join(directory, 's');
    const socket = connect(path);
    const header = Buffer.from('4948415645' + '4f5054' + '00000001' + '00000000', 'hex');
    socket.write(Buffer.concat([Buffer.from('00000003', 'hex'), header]));
    const request = Buffer.alloc(28);
    request.writeUInt32BE(0x25609513, 0);
    request.writeUInt32BE(8 * 1024 * 1024, 24);
    for (let i = 0; i < REQUESTS; i++) socket.write(request);
    await new Promise((resolve) => setTimeout(resolve, 500));
    expect(reads).toBeLessThan(20);
    socket.resume();
    while (reads < REQUESTS) await new Promise((resolve) => setTimeout(resolve, 20));
    socket.destroy();
  });

  test('close ends connections and aborts their reads', async () => {
    let aborted = false;
    class Hanging extends BufferSource {
      override read(_offset: number, _target: Buffer, signal?: AbortSignal): Promise<void> {
        return new Promise((_, reject) => {
          signal?.addEventListener('abort', () => {
            aborted = true;
            reject(signal.reason);
          });
        });
      }
    }
    await serve(new Hanging(Buffer.alloc(4096)));
    const client = new RawClient(join(directory, 's'));
    await client.go();
    client.request(0, 1, 0, 512);
    while (server?.connections === 0) await new Promise((resolve) => setTimeout(resolve, 5));
    await new Promise((resolve) => setTimeout(resolve, 50));
    await server?.close();
    await expect(client.take(1)).rejects.toThrow('hung up');
    expect(aborted).toBe(true);
  });
});
