import { z } from 'zod';

/** `HOST:PORT`, with an IPv6 address in brackets, to listen on. */
export const hostAndPort = z
  .string()
  .regex(/^(?:\[[0-9a-fA-F:]+\]|[^:\s[\]]+):\d{1,5}$/, 'write HOST:PORT, for example 127.0.0.1:5100')
  .transform((text) => {
    const colon = text.lastIndexOf(':');
    return { host: text.slice(0, colon).replace(/^\[|\]$/g, ''), port: Number(text.slice(colon + 1)) };
  })
  .refine(({ port }) => port <= 65_535, 'the port is greater than 65535');

/** Of a dadi proxy or root: paths are put behind it. */
export const baseUrl = z
  .url({ protocol: /^https?$/, error: 'write a URL, for example http://127.0.0.1:5100' })
  .transform((text) => new URL(text.endsWith('/') ? text : `${text}/`));

/** What is logged: this and what is worse. */
export const LOG_LEVELS = ['trace', 'debug', 'info', 'warn', 'error', 'silent'] as const;
