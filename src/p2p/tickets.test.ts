import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { importJWK, jwtVerify } from 'jose';
import { afterAll, expect, test } from 'vitest';
import { digestOf } from '../oci/digest.ts';
import { RootKey } from './root/root-key.ts';
import { issueTicket, type Ticket, verifyingKeys, verifyTicket } from './tickets.ts';

const NOW_MS = 1_700_000_000_000;
const MEMBER = '0123456789abcdef0123456789abcdef';
const TICKET: Ticket = {
  blob: digestOf('blob'),
  table: digestOf('table'),
  member: MEMBER,
  endsAtMs: NOW_MS + 600_000,
};

const work = mkdtempSync(join(tmpdir(), 'dadi-key-'));
afterAll(() => rmSync(work, { recursive: true }));

const root = RootKey.generate();
const keys = verifyingKeys(root.publicKeys());

test('a ticket says who may have what, and until when', () => {
  expect(verifyTicket(issueTicket(TICKET, root), keys, NOW_MS)).toEqual(TICKET);
});

test('another library takes a ticket for a signed JWT by the published key', async () => {
  const [jwk] = root.publicKeys().keys;
  const { payload, protectedHeader } = await jwtVerify(
    issueTicket(TICKET, root),
    await importJWK(jwk!, 'EdDSA'),
    { typ: 'dadi-ticket', currentDate: new Date(NOW_MS) },
  );
  expect(payload).toEqual({
    blob: TICKET.blob,
    table: TICKET.table,
    sub: MEMBER,
    exp: TICKET.endsAtMs / 1000,
  });
  expect(protectedHeader.kid).toBe(root.kid);
});

test('no bit of a ticket can be changed', () => {
  const ticket = issueTicket(TICKET, root);
  for (let at = 0; at < ticket.length; at += 1) {
    const other = ticket[at] === 'A' ? 'Q' : 'A';
    const changed = ticket.slice(0, at) + other + ticket.slice(at + 1);
    // The last digit of 64 bytes in base64 has four bits that say nothing.
    if (Buffer.from(changed, 'base64url').equals(Buffer.from(ticket, 'base64url')) && at > ticket.length - 2)
      continue;
    expect(() => verifyTicket(changed, keys, NOW_MS), `character ${at}`).toThrow(
      expect.objectContaining({ name: 'TokenError' }),
    );
  }
});

test('a ticket ends, with a minute of leeway for clocks', () => {
  const ticket = issueTicket(TICKET, root);
  expect(verifyTicket(ticket, keys, TICKET.endsAtMs + 59_999).member).toBe(MEMBER);
  expect(() => verifyTicket(ticket, keys, TICKET.endsAtMs + 60_000)).toThrow(
    expect.objectContaining({ code: 'ERR_TOKEN_EXPIRED' }),
  );
});

test('a ticket of an unknown root is told from one with a wrong signature', () => {
  const other = RootKey.generate();
  const ticket = issueTicket(TICKET, other);
  expect(() => verifyTicket(ticket, keys, NOW_MS)).toThrow(
    expect.objectContaining({ code: 'ERR_TOKEN_KEY_UNKNOWN' }),
  );
  const mistaken = new Map([[other.kid, keys.get(root.kid)!]]);
  expect(() => verifyTicket(ticket, mistaken, NOW_MS)).toThrow(
    expect.objectContaining({ code: 'ERR_TOKEN_SIGNATURE' }),
  );
});

test('a session is no ticket, a ticket no session, and neither is what somebody makes up', () => {
  const session = root.session(MEMBER, TICKET.endsAtMs);
  expect(root.memberOf(session, NOW_MS)).toBe(MEMBER);
  const malformed = expect.objectContaining({ code: 'ERR_TOKEN_MALFORMED' });
  expect(() => verifyTicket(session, keys, NOW_MS)).toThrow(malformed);
  expect(() => root.memberOf(issueTicket(TICKET, root), NOW_MS)).toThrow(malformed);
  const none = Buffer.from('{"alg":"none","typ":"dadi-ticket","kid":"x"}').toString('base64url');
  for (const text of ['', 'a.b.c', 'x'.repeat(5000), `${none}.e30.${'A'.repeat(86)}`, `${none}.e30.`]) {
    expect(() => verifyTicket(text, keys, NOW_MS)).toThrow(malformed);
  }
});

test('the key is made once, for its owner alone, and what it signed holds after a restart', async () => {
  const path = join(work, 'below', 'mesh-key.pem');
  const [first, beside] = await Promise.all([RootKey.open(path), RootKey.open(path)]);
  expect(beside.kid).toBe(first.kid);
  expect(statSync(path).mode & 0o777).toBe(0o600);
  const again = await RootKey.open(path);
  expect(again.memberOf(first.session(MEMBER, TICKET.endsAtMs), NOW_MS)).toBe(MEMBER);
  expect(readFileSync(path, 'utf8')).toMatch(/^-----BEGIN PRIVATE KEY-----/);
});

test('a file that holds no such key is named, and not replaced', async () => {
  const path = join(work, 'other.pem');
  writeFileSync(path, 'nothing');
  await expect(RootKey.open(path)).rejects.toMatchObject({
    code: 'ERR_CONFIG',
    message: expect.stringContaining(path),
  });
  expect(readFileSync(path, 'utf8')).toBe('nothing');
});
