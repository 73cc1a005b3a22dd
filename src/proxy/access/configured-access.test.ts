import { pino } from 'pino';
import { expect, test } from 'vitest';
import { parseProxyConfig } from '../config.ts';
import { warnOfPlainCredentials } from './configured-access.ts';

const PASSTHROUGH = { access: { mode: 'passthrough' } };

test.each([
  [{ listen: '0.0.0.0:5100', ...PASSTHROUGH }, 1],
  [{ listen: '[::]:5100', access: { mode: 'basic', htpasswd: '/passwords' } }, 1],
  [{ listen: '0.0.0.0:5100', publicUrl: 'http://mirror.example', ...PASSTHROUGH }, 1],
  [{ listen: '0.0.0.0:5100', publicUrl: 'https://mirror.example', ...PASSTHROUGH }, 0],
  [{ listen: '0.0.0.0:5100', tls: { cert: 'c', key: 'k' }, ...PASSTHROUGH }, 0],
  [{ listen: '127.0.0.1:5100', ...PASSTHROUGH }, 0],
  [{ listen: '[::1]:5100', ...PASSTHROUGH }, 0],
  [{ listen: '0.0.0.0:5100' }, 0],
])('passwords that could be read on their way are warned of: %j', (config, warnings) => {
  const lines: string[] = [];
  warnOfPlainCredentials(
    parseProxyConfig(config),
    pino({ level: 'warn' }, { write: (line) => lines.push(line) }),
  );
  expect(lines).toHaveLength(warnings);
});
