import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import type { Attributes } from '../format/layer-entry.ts';
import type { TarEntry } from '../format/tar-reader.ts';
import { BlockPacker } from './block-packer.ts';
import { LayerStage, TailSpool } from './layer-stage.ts';
import { SegmentBuilder } from './segment-builder.ts';

const directory = mkdtempSync(join(tmpdir(), 'layer-stage-'));
const tails = new TailSpool(join(directory, 'tails'));
afterAll(() => {
  tails.close();
  rmSync(directory, { recursive: true, force: true });
});

const NO_XATTRS = new Map<string, Buffer>();
const MEMBER: TarEntry = {
  path: 'f',
  type: 'fifo',
  size: 0,
  mode: 0o644,
  uid: 1,
  gid: 2,
  mtimeSeconds: 3,
  mtimeNanoseconds: 4,
  linkTarget: '',
  deviceMajor: 0,
  deviceMinor: 0,
  xattrs: NO_XATTRS,
};

function attributesOf(members: readonly TarEntry[]): Attributes[] {
  const stage = new LayerStage(new BlockPacker({ appendData: () => 0 }, new SegmentBuilder()), tails);
  for (const member of members) {
    stage.entry(member);
    stage.end(member);
  }
  return stage.entries.map((entry) => {
    if (entry.kind !== 'fifo') throw new Error(entry.kind);
    return entry.attributes;
  });
}

test.each([
  { mode: 0o600 },
  { uid: 9 },
  { gid: 9 },
  { mtimeSeconds: 9 },
  { mtimeNanoseconds: 9 },
  { xattrs: new Map([['user.x', Buffer.from('v')]]) },
])('entries keep their own attributes where these differ from the neighbours in %o', (change) => {
  const { mode, uid, gid, mtimeSeconds, mtimeNanoseconds, xattrs } = MEMBER;
  const attributes = { mode, uid, gid, mtimeSeconds, mtimeNanoseconds, xattrs };
  const staged = attributesOf([MEMBER, { ...MEMBER, ...change }, MEMBER]);
  expect(staged).toEqual([attributes, { ...attributes, ...change }, attributes]);
});

test('entries that follow one another with the same attributes hold them once', () => {
  const [first, second] = attributesOf([MEMBER, { ...MEMBER, path: 'g' }]);
  expect(second).toBe(first);
});
