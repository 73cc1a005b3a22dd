import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import process from 'node:process';
import { text } from 'node:stream/consumers';
import { setTimeout as sleep } from 'node:timers/promises';
import { gzipSync } from 'node:zlib';
import { afterEach, beforeAll, beforeEach, describe, expect, it, vi } from 'vitest';
import { z } from 'zod';
import { mountPointsUnder } from '../demo/mounts.ts';
import { PROGRAM } from '../demo/recipe.ts';
import { digestOf } from '../src/oci/digest.ts';
import { requireCapability } from './support/capabilities.ts';
import { builtDemoImage } from './support/demo-image.ts';
import { OCI_GZIP } from './support/layer-forms.ts';
import { makeImage, putMade } from './support/made-image.ts';
import { run } from './support/processes.ts';
import { END_BLOCKS, tarMember } from './support/tar-blocks.ts';

const DEMO = resolve(import.meta.dirname, '../demo/demo.ts');
const BUILD_TIMEOUT_MS = 10 * 60_000;
const SMALL_IMAGE = 'small-image';

const startUp = z.object({
  preparedMs: z.number().positive(),
  firstOutputMs: z.number().positive(),
  bytesFetched: z.int().positive(),
  output: z.string(),
});
const results = z.object({
  image: z.object({
    digest: z.string(),
    layers: z.int(),
    compressedBytes: z.int(),
    uncompressedBytes: z.int(),
  }),
  firstPull: z.object({ digest: z.string(), ms: z.number().positive() }),
  conversion: z.object({ digest: z.string(), bytes: z.int(), ms: z.number().positive() }),
  inFull: startUp,
  lazily: startUp,
  ratios: z.object({
    bytesFetchedShare: z.number(),
    timesSooner: z.number().positive(),
    conversionMegabytesPerSecond: z.number().positive(),
  }),
});

const loopList = z.object({ loopdevices: z.array(z.object({ name: z.string(), 'back-file': z.string() })) });

const capable = requireCapability(
  'root',
  'fuse',
  'loop',
  'erofs',
  'registry',
  'skopeo',
  'umoci',
  'mmdebstrap',
  'attr',
  'busybox',
);

describe.skipIf(!capable)('the demo', () => {
  /** All that the demo makes is under it, and all its processes have it in their environment. */
  let scratch: string;
  let loopsBefore: string[];

  beforeAll(async () => {
    await builtDemoImage(AbortSignal.timeout(BUILD_TIMEOUT_MS));
  }, BUILD_TIMEOUT_MS);

  beforeEach(async () => {
    scratch = mkdtempSync(join(tmpdir(), 'demo-test-'));
    loopsBefore = await loopsWithin(scratch);
  });

  afterEach(() => rmSync(scratch, { recursive: true }));

  it('takes an image the whole way, and prints what it measured', async () => {
    const demo = startDemo(scratch);
    const [said, exit] = await Promise.all([text(demo.stdout!), once(demo, 'close')]);
    expect(exit).toEqual([0, null]);
    const { image, firstPull, conversion, inFull, lazily, ratios } = results.parse(JSON.parse(said));
    expect(image.layers).toBe(5);
    expect(image.uncompressedBytes).toBeGreaterThan(300_000_000);
    expect(firstPull.digest).toBe(image.digest);
    expect(conversion.digest).not.toBe(image.digest);
    expect(conversion.bytes).toBeLessThan(image.uncompressedBytes);
    expect(inFull.output).toMatch(/^Python 3\..* with numpy .* error below 1e-9: True$/);
    expect(lazily.output).toBe(inFull.output);
    expect(inFull.bytesFetched).toBeGreaterThan(image.compressedBytes);
    expect(lazily.bytesFetched).toBeLessThan(inFull.bytesFetched / 2);
    expect(ratios.bytesFetchedShare).toBeCloseTo(lazily.bytesFetched / inFull.bytesFetched);
    await expectNothingLeft();
  });

  it('leaves nothing behind when it is interrupted during the conversion', async () => {
    const demo = startDemo(scratch);
    await saying(demo, '✓ pull');
    demo.kill('SIGINT');
    expect(await once(demo, 'close')).toEqual([130, null]);
    await expectNothingLeft();
  });

  it('leaves nothing behind when it is interrupted while dadi mount is at work', async () => {
    const demo = startDemo(scratch, await smallImage(scratch));
    await saying(demo, '✓ in full');
    await until(() =>
      readdirSync(scratch, { recursive: true }).some((path) => String(path).endsWith('lazily/run')),
    );
    demo.kill('SIGINT');
    expect(await once(demo, 'close')).toEqual([130, null]);
    await expectNothingLeft();
  });

  it('leaves nothing behind when it is ended while the image is mounted', async () => {
    const demo = startDemo(scratch, await smallImage(scratch));
    await saying(demo, '✓ in full');
    await until(() => mountPointsUnder(scratch).some((point) => point.endsWith('lazily/root')));
    demo.kill('SIGTERM');
    expect(await once(demo, 'close')).toEqual([143, null]);
    await expectNothingLeft();
  });

  it('leaves nothing behind when nobody reads what it says', async () => {
    const demo = startDemo(scratch, await smallImage(scratch));
    await saying(demo, '✓ upstream');
    demo.stderr?.destroy();
    const [exitCode] = await once(demo, 'close');
    expect(exitCode).not.toBe(0);
    await expectNothingLeft();
  });

  async function expectNothingLeft(): Promise<void> {
    expect(mountPointsUnder(scratch)).toEqual([]);
    expect(processesThatKnow(scratch)).toEqual([]);
    // Of tests beside this one, a loop device may just be going whose file has gone.
    await vi.waitFor(
      async () =>
        expect((await loopsWithin(scratch)).filter((name) => !loopsBefore.includes(name))).toEqual([]),
      { timeout: 30_000 },
    );
    expect(readdirSync(scratch).filter((name) => name !== SMALL_IMAGE)).toEqual([]);
  }
});

/**
 * For what happens around an image, one of two megabytes. Its program ends where it may write, as in what is unpacked;
 * where it may not, as in what is mounted, only a signal ends it: there is time to send one.
 */
async function smallImage(scratch: string): Promise<string> {
  const [program = ''] = PROGRAM;
  const script = '#!/bin/sh\necho ran >/written || exec sleep 600\necho ran\n';
  const tar = Buffer.concat([
    tarMember({ path: 'bin/', type: '5', mode: 0o755 }),
    tarMember({ path: 'bin/busybox', mode: 0o755 }, readFileSync('/bin/busybox')),
    ...['sh', 'sleep'].map((name) => tarMember({ path: `bin/${name}`, type: '2', linkTarget: 'busybox' })),
    tarMember({ path: program.slice(1), mode: 0o755 }, script),
    END_BLOCKS,
  ]);
  const layer = { mediaType: OCI_GZIP, bytes: gzipSync(new Uint8Array(tar)), diffId: digestOf(tar) };
  const layout = join(scratch, SMALL_IMAGE);
  await putMade(layout, 'latest', makeImage([layer]));
  const layers = [{ name: 'small', about: 'busybox', tarBytes: tar.length }];
  writeFileSync(join(layout, 'layers.json'), JSON.stringify(layers));
  return layout;
}

function startDemo(scratch: string, image: string | null = null): ChildProcess {
  return spawn(process.execPath, [DEMO, '--json', ...(image === null ? [] : ['--image', image])], {
    env: { ...process.env, TMPDIR: scratch },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
}

/** Waits until the demo has said something on stderr. */
async function saying(demo: ChildProcess, awaited: string): Promise<void> {
  let said = '';
  for await (const chunk of demo.stderr!.iterator({ destroyOnReturn: false })) {
    said += String(chunk);
    if (said.includes(awaited)) {
      demo.stderr?.resume();
      return;
    }
  }
  throw new Error(`the demo ended without saying "${awaited}":\n${said}`);
}

async function until(condition: () => boolean): Promise<void> {
  const signal = AbortSignal.timeout(60_000);
  while (!condition()) await sleep(5, undefined, { signal });
}

/** Names of the loop devices that may be the demo's: over a file of its own, or over one that has gone. */
async function loopsWithin(scratch: string): Promise<string[]> {
  const { stdout } = await run('losetup', ['--all', '--json', '--output', 'NAME,BACK-FILE']);
  if (stdout === '') return [];
  const { loopdevices } = loopList.parse(JSON.parse(stdout));
  return loopdevices
    .filter((loop) => loop['back-file'].startsWith(scratch) || !existsSync(loop['back-file']))
    .map((loop) => loop.name);
}

/** Command lines of the processes whose environment or command line has `marker` in it. */
function processesThatKnow(marker: string): string[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name) && Number(name) !== process.pid)
    .map((pid) => `${readProc(pid, 'cmdline')}\n${readProc(pid, 'environ')}`)
    .filter((known) => known.includes(marker))
    .map((known) => known.split('\n')[0] ?? '');
}

function readProc(pid: string, file: string): string {
  try {
    return readFileSync(`/proc/${pid}/${file}`, 'latin1').replaceAll('\0', ' ');
  } catch {
    return '';
  }
}
