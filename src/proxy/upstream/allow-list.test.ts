import { expect, test } from 'vitest';
import { AllowList, isAllowPattern } from './allow-list.ts';

const list = new AllowList(['*.example.com', '*.ports.example:5000', 'registry.corp', 'registry.corp:5000']);

test.each([
  ['a.example.com', 'public'],
  ['a.b.example.com', 'public'],
  ['a.ports.example:5000', 'public'],
  ['registry.corp', 'private'],
  ['registry.corp:5000', 'private'],
])('%s may be asked for, and stand at %s addresses', (name, reach) => {
  expect(list.reachOf(name)).toBe(reach);
});

test.each([
  'example.com',
  'evilexample.com',
  'a.example.com.evil.org',
  'a.example.com:5000',
  'a.ports.example',
  'a.ports.example:5001',
  'registry.corp:22',
  'a.registry.corp',
  'a.example.com.',
  '.example.com',
  '-.example.com',
  'A.example.com',
  'a.example.com/../x',
  'a.example.com#',
  'user@a.example.com',
  'a.example.com:',
  'a.example.com:0',
  'a b.example.com',
  'ä.example.com',
  'a%2eexample.com',
  '*.example.com',
  '',
  `${'a.'.repeat(200)}example.com`,
])('%j may not be asked for', (name) => {
  expect(list.reachOf(name)).toBeNull();
});

test.each([
  '127.0.0.1',
  '[::1]',
  '2130706433',
  '0x7f.1',
  '0x7f000001',
  '017700000001',
  '127.1',
  '1.2.3.4.5',
  '*.1',
])('an address is neither a pattern nor matched by one, however it is written: %s', (address) => {
  expect(isAllowPattern(address)).toBe(false);
  expect(new AllowList(['*.example.com']).reachOf(address)).toBeNull();
});

test.each(['*', '*.', '*.*.example.com', 'a*.example.com', 'https://a.io', 'a.io/x', 'a.io:99999'])(
  '%s is no pattern',
  (pattern) => {
    expect(isAllowPattern(pattern)).toBe(false);
  },
);
