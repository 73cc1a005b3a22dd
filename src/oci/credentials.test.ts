import { chmodSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import process from 'node:process';
import { afterAll, beforeAll, expect, test, vi } from 'vitest';
import { askCredentialHelper } from './credential-helper.ts';
import { CachedCredentials, readSecretFile, type Secret, secretOfAuthorization } from './credentials.ts';
import { dockerConfigCredentials, helperCredentials } from './docker-config.ts';

let scratch: string;
const path = process.env['PATH'];
beforeAll(() => {
  scratch = mkdtempSync(join(tmpdir(), 'credentials-'));
  process.env['PATH'] = `${scratch}:${path}`;
});
afterAll(() => {
  process.env['PATH'] = path;
  rmSync(scratch, { recursive: true });
});

/** A credential helper, which appends what it is asked for to a file. */
function writeHelper(name: string, answer: string): { asked: () => string[] } {
  const program = join(scratch, `docker-credential-${name}`);
  const log = `${program}.log`;
  writeFileSync(program, `#!/bin/sh\n{ echo "$1" | tr '\\n' ' '; cat; echo; } >> '${log}'\n${answer}\n`);
  chmodSync(program, 0o755);
  return { asked: () => readFileSync(log, 'utf8').trim().split('\n') };
}

const json = (username: string, secret: string) =>
  `echo '{"ServerURL":"x","Username":"${username}","Secret":"${secret}"}'`;

function writeConfig(config: object | string): string {
  const file = join(mkdtempSync(join(scratch, 'config-')), 'config.json');
  writeFileSync(file, typeof config === 'string' ? config : JSON.stringify(config));
  return file;
}

const login = (username: string, password: string): Secret => ({ kind: 'password', username, password });
const auth = (text: string) => ({ auth: Buffer.from(text).toString('base64') });
const secretFor = (config: object, host: string) =>
  dockerConfigCredentials(writeConfig(config), host).current(undefined);

test.each([
  ['quay.io', { 'quay.io': auth('u:p:q') }, login('u', 'p:q')],
  ['quay.io', { 'https://quay.io': auth('u:p') }, login('u', 'p')],
  ['quay.io', { 'https://quay.io/v2/': auth('u:p') }, login('u', 'p')],
  ['quay.io', { 'http://quay.io/v1': auth('u:p') }, login('u', 'p')],
  ['quay.io', { 'https://quay.io/v1/': auth('old:p'), 'quay.io': auth('u:p') }, login('u', 'p')],
  ['quay.io', { 'quay.io/team': auth('u:p') }, null],
  ['quay.io', { 'evil-quay.io': auth('u:p'), 'quay.io.evil': auth('u:p') }, null],
  ['quay.io:443', { 'quay.io': auth('u:p') }, null],
  ['[::1]:5000', { '[::1]:5000': auth('u:p') }, login('u', 'p')],
  ['docker.io', { 'https://index.docker.io/v1/': auth('u:p') }, login('u', 'p')],
  ['docker.io', { 'docker.io': auth('u:p') }, login('u', 'p')],
  ['docker.io', { 'registry-1.docker.io': auth('u:p') }, login('u', 'p')],
  ['a.io', { 'a.io': { username: 'u', password: 'p' } }, login('u', 'p')],
  ['a.io', { 'a.io': { ...auth('u:p'), identitytoken: 't' } }, { kind: 'identity-token', token: 't' }],
  ['a.io', { 'a.io': {} }, null],
  ['a.io', { 'a.io': auth('u:p\0\0') }, login('u', 'p')],
])("%s finds its entry in Docker's configuration %j", async (host, auths, secret) => {
  expect(await secretFor({ auths }, host)).toEqual(secret);
});

test('a helper of the registry wins over the helper of all, that over the file', async () => {
  writeHelper('own', json('own', 's'));
  writeHelper('all', json('all', 's'));
  writeHelper('empty', 'echo "credentials not found in native keychain"; exit 1');
  const auths = { 'a.io': auth('file:s') };
  const credHelpers = { 'a.io': 'own' };
  expect(await secretFor({ auths, credsStore: 'all', credHelpers }, 'a.io')).toEqual(login('own', 's'));
  expect(await secretFor({ auths, credsStore: 'all', credHelpers }, 'b.io')).toEqual(login('all', 's'));
  expect(await secretFor({ auths, credsStore: 'empty' }, 'a.io')).toEqual(login('file', 's'));
  expect(await secretFor({ credHelpers: { 'a.io': 'empty' } }, 'a.io')).toBeNull();
});

test('a helper is asked for the host, for Docker Hub by the address that it is known by', async () => {
  const helper = writeHelper('log', json('u', 's'));
  await helperCredentials('log', 'quay.io:8443').current(undefined);
  await helperCredentials('log', 'docker.io').current(undefined);
  expect(helper.asked()).toEqual(['get quay.io:8443', 'get https://index.docker.io/v1/']);
});

test('the user <token> of a helper means an identity token', async () => {
  writeHelper('token', json('<token>', 'refresh'));
  expect(await askCredentialHelper('token', 'a.io')).toEqual({ kind: 'identity-token', token: 'refresh' });
});

test("a helper's answer is kept, and asked for again once it was refused", async () => {
  const helper = writeHelper('kept', json('u', 's'));
  const provider = helperCredentials('kept', 'a.io', { minAgeMs: 0 });
  const secrets = await Promise.all([1, 2, 3].map(() => provider.current(undefined)));
  expect(await provider.current(undefined)).toEqual(secrets[0]);
  expect(helper.asked()).toHaveLength(1);
  provider.refused(login('u', 'another'));
  await provider.current(undefined);
  expect(helper.asked()).toHaveLength(1);
  provider.refused(login('u', 's'));
  await provider.current(undefined);
  expect(helper.asked()).toHaveLength(2);
});

test('a secret that was just fetched is not fetched again for each refusal', async () => {
  const load = vi.fn(async () => login('u', 's'));
  const provider = new CachedCredentials(load);
  for (let refusals = 0; refusals < 10; refusals++) {
    await provider.current(undefined);
    provider.refused(login('u', 's'));
  }
  expect(load).toHaveBeenCalledTimes(1);
});

test.each([
  ['missing', null, /docker-credential-missing cannot be run .*ENOENT.*install it/],
  [
    'fails',
    'echo "vault is sealed"; exit 3',
    /docker-credential-fails failed for a\.io \(status 3\): vault is/,
  ],
  ['garbage', 'echo hello', /docker-credential-garbage gave no credentials for a\.io/],
  ['hangs', 'sleep 600', /docker-credential-hangs did not answer within 0\.3 s/],
  ['talks', 'yes', /docker-credential-talks wrote more than/],
  ['../../bin/sh', null, /cannot exist/],
])('a helper that cannot be used is an error that says why: %s', async (name, answer, message) => {
  if (answer !== null) writeHelper(name, answer);
  await expect(
    askCredentialHelper(name, 'a.io', { timeoutMs: name === 'hangs' ? 300 : 30_000 }),
  ).rejects.toMatchObject({
    code: 'ERR_CREDENTIALS',
    message: expect.stringMatching(message),
  });
});

test.each(['{"auths": {"a.io": {"auth": "secr', '[]', '{"auths": 5}'])(
  'a Docker configuration that is none is named, and not quoted: %s',
  async (text) => {
    const file = writeConfig(text);
    const failure = await dockerConfigCredentials(file, 'a.io')
      .current(undefined)
      .catch((error) => error);
    expect(failure).toMatchObject({ code: 'ERR_CREDENTIALS', message: expect.stringContaining(file) });
    expect(JSON.stringify([failure.message, String(failure.cause)])).not.toContain('secr');
  },
);

test('a file that is not there is named', async () => {
  const file = join(scratch, 'nowhere');
  const failed = { code: 'ERR_CREDENTIALS', message: expect.stringContaining(file) };
  await expect(dockerConfigCredentials(file, 'a.io').current(undefined)).rejects.toMatchObject(failed);
  expect(() => readSecretFile(file)).toThrow(expect.objectContaining(failed));
});

test('a secret in a file ends with its first line', () => {
  const file = join(scratch, 'secret');
  writeFileSync(file, 's3cret \r\nmore\n');
  expect(readSecretFile(file)).toBe('s3cret ');
  writeFileSync(file, '\n');
  expect(() => readSecretFile(file)).toThrow(/empty/);
});

test.each([
  [`Basic ${Buffer.from('u:p').toString('base64')}`, login('u', 'p')],
  [`basic ${Buffer.from('u:').toString('base64')}`, login('u', '')],
  ['Bearer abc', { kind: 'authorization', value: 'Bearer abc' }],
  ['Basic !', { kind: 'authorization', value: 'Basic !' }],
])('an Authorization header is understood as far as it has to be: %s', (value, secret) => {
  expect(secretOfAuthorization(value)).toEqual(secret);
});
