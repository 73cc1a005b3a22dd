import { expect, test } from 'vitest';
import { digestOf } from '../digest.ts';
import { conditionalAnswer } from './conditions.ts';

const DIGEST = digestOf('this');
const THIS = `"${DIGEST}"`;
const OTHER = `"${digestOf('other')}"`;

test.each([
  [{ 'if-none-match': THIS }, 304],
  [{ 'if-none-match': `W/${THIS}` }, 304],
  [{ 'if-none-match': `${OTHER}, W/"x" , ${THIS}` }, 304],
  [{ 'if-none-match': '*' }, 304],
  [{ 'if-none-match': DIGEST }, 304],
  [{ 'if-none-match': OTHER }, null],
  [{ 'if-none-match': '' }, null],
  [{ 'if-match': THIS }, null],
  [{ 'if-match': `${OTHER}, ${THIS}` }, null],
  [{ 'if-match': '*' }, null],
  [{ 'if-match': OTHER }, 412],
  [{ 'if-match': `W/${THIS}` }, 412],
  [{ 'if-match': OTHER, 'if-none-match': THIS }, 412],
  [{ 'if-match': THIS, 'if-none-match': THIS }, 304],
  [{ 'if-modified-since': 'Wed, 21 Oct 2099 07:28:00 GMT' }, null],
  [{}, null],
])('%j is decided by %s', (headers, status) => {
  const answer = conditionalAnswer(headers, DIGEST);
  expect(answer?.status ?? null).toBe(status);
  if (answer !== null) expect(answer.headers).toMatchObject({ etag: THIS, 'docker-content-digest': DIGEST });
});
