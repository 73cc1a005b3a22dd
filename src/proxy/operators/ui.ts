import { createHash } from 'node:crypto';
import { type Answer, bufferAnswer } from '../../oci/serving/answer.ts';
import { UI_SCRIPT } from './ui-script.ts';

const STYLE = `
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem; color: #1c2330; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.05rem; margin: 1.8rem 0 .4rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1.5rem; } dd { margin: 0; }
dt { color: #5b6576; } table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: .25rem .8rem .25rem 0; border-bottom: 1px solid #dde2ea; vertical-align: top;
  overflow-wrap: anywhere; }
th { font-weight: 500; color: #5b6576; white-space: nowrap; } .good { color: #17703a; } .bad, #trouble { color: #b3261e; }
button { font: inherit; white-space: nowrap; }
@media (prefers-color-scheme: dark) {
  body { background: #14171c; color: #dfe4ec; } th, td { border-color: #313845; } th, dt { color: #97a1b2; }
  .good { color: #6fd394; } .bad, #trouble { color: #ff8a80; }
}`;

const table = (id: string, heading: string, columns: readonly string[]) =>
  `<h2>${heading}</h2>
<table><thead><tr>${columns.map((name) => `<th>${name}</th>`).join('')}</tr></thead><tbody id="${id}"></tbody></table>`;

const fields: readonly (readonly [id: string, name: string])[] = [
  ['ready', 'state'],
  ['version', 'version'],
  ['uptime', 'running for'],
  ['hits', 'hit ratio'],
  ['free', 'free space'],
  ['queue', 'conversions'],
];

const PAGE = Buffer.from(`<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>dadi proxy</title>
<style>${STYLE}</style>
</head>
<body>
<h1>dadi proxy</h1>
<p id="trouble" role="alert"></p>
<dl>${fields.map(([id, name]) => `<dt>${name}</dt><dd id="${id}"></dd>`).join('')}</dl>
${table('upstreams', 'Upstreams', ['name', 'state', 'reason', 'pulls left', 'mirrors'])}
${table('downloads', 'Running downloads', ['image', 'blob', 'arrived', ''])}
${table('running', 'Running conversions', ['image', 'manifest', 'layers', ''])}
${table('failures', 'Failed conversions', ['image', 'manifest', 'reason', 'failures', 'next attempt', ''])}
${table('pulls', 'Recent pulls', ['when', 'image', 'reference', 'from'])}
<script>${UI_SCRIPT}</script>
</body>
</html>
`);

/** Nothing but what stands in the page itself runs, and it asks nobody but this proxy. */
const POLICY = [
  "default-src 'none'",
  `script-src '${sourceHash(UI_SCRIPT)}'`,
  `style-src '${sourceHash(STYLE)}'`,
  "connect-src 'self'",
  "base-uri 'none'",
  "form-action 'none'",
  "frame-ancestors 'none'",
].join('; ');

/** GET /ui: one page with all that it needs. */
export function answerUi(): Answer {
  return bufferAnswer(200, PAGE, {
    'content-type': 'text/html; charset=utf-8',
    'content-security-policy': POLICY,
    'x-content-type-options': 'nosniff',
    'referrer-policy': 'no-referrer',
    'cache-control': 'no-store',
  });
}

function sourceHash(text: string): string {
  return `sha256-${createHash('sha256').update(text).digest('base64')}`;
}
