import { describe, expect, test } from 'vitest';
import { type FilteredSnapshot, parseFilters } from './snapshot-filter.ts';

const REF = `sha256:${'ab'.repeat(32)}`;

const snapshots: readonly FilteredSnapshot[] = [
  { name: 'a', kind: 'active', parent: 'p', labels: { l: '2' } },
  { name: 'a-np', kind: 'active', parent: '', labels: {} },
  { name: 'v', kind: 'view', parent: 'p', labels: { l: '3', 'b.c': 'x y' } },
  { name: 'p', kind: 'committed', parent: '', labels: { 'containerd.io/snapshot.ref': REF } },
  { name: 'q', kind: 'committed', parent: 'p', labels: { 'containerd.io/snapshot.ref': REF, utf: 'ä/"|' } },
];

function matching(...filters: string[]): string {
  return snapshots
    .filter(parseFilters(filters))
    .map(({ name }) => name)
    .join(' ');
}

describe('a filter', () => {
  test.each([
    [['kind==active'], 'a a-np'],
    [['kind==view'], 'v'],
    [['kind==committed,parent==""'], 'p'],
    [['name==p', 'name==a-np'], 'a-np p'],
    [['name==a,labels.l'], 'a'],
    [['name==a-np,labels.l'], ''],
    [['parent==p'], 'a v q'],
    [['parent!=""'], 'a v q'],
    [['parent!=p'], 'a-np p'],
    [['labels.l'], 'a v'],
    [['labels.l==2'], 'a'],
    // What is not there equals nothing, and differs from everything.
    [['labels.l!=2'], 'a-np v p q'],
    [['labels.missing==""'], ''],
    [['labels.missing!=""'], ''],
    [['labels'], ''],
    [['size'], ''],
    [['labels.b.c=="x y"'], 'v'],
    [['labels."b.c"~=/^x\\x20/'], 'v'],
    [['labels."\\x62.c"'], 'v'],
    // As containerd asks for the snapshot that a Prepare has found.
    [[`labels."containerd.io/snapshot.ref"==${REF},parent==""`], 'p'],
    [[`labels."containerd.io/snapshot.ref"==${REF},parent=="p"`], 'q'],
    [['name ==  a'], 'a'],
    [['name==a, kind==active'], 'a'],
    [['name~=^a'], 'a a-np'],
    [['name~=|^(a\\|p)$|'], 'a p'],
    [['name~="^A(?i)"'], ''],
    [['name~="(?i)^A$"'], 'a'],
    [['name~="\\\\A[[:alpha:]]\\\\z"'], 'a v p q'],
    [['name~=/(?P<first>a)-np/'], 'a-np'],
    [['name~="("'], ''],
    [['labels.utf=="\\u00e4/\\"|"'], 'q'],
    [['labels.utf=="\\303\\244/\\"|"'], 'q'],
    [['labels.l==2/"|'], ''],
    [[''], 'a a-np v p q'],
    [[], 'a a-np v p q'],
  ])('%j holds for: %s', (filters, names) => {
    expect(matching(...filters)).toBe(names);
  });

  test.each([
    'name=a',
    'name===a',
    'name==',
    'name=="a',
    'name==a,',
    'name==a ',
    ',name==a',
    'name==a kind==view',
    'name.==a',
    '.name',
    '-name',
    'name==/a/',
    'labels./l/',
    'name=="\\q"',
    'name=="\\d"',
    'name~=/\\d/',
    'name=="\\400"',
    'name=="\\U00110000"',
    'name<a',
  ])('%s is none', (text) => {
    expect(() => parseFilters([text])).toThrow(expect.objectContaining({ code: 'ERR_SNAPSHOT_ARGUMENT' }));
  });
});
