/**
 * The dashboard's program, for browsers. What it shows goes into the page as text, never as HTML: names of images are
 * other people's.
 */
export const UI_SCRIPT = `'use strict';
const REFRESH_MS = 3000;
const UNITS = ['B', 'kB', 'MB', 'GB', 'TB'];

function bytes(value) {
  if (value === null || value === undefined) return 'unknown';
  let unit = 0;
  while (value >= 1000 && unit < UNITS.length - 1) { value /= 1000; unit++; }
  return value.toFixed(unit === 0 ? 0 : 1) + ' ' + UNITS[unit];
}

function percent(done, total) {
  return total > 0 ? Math.floor(100 * done / total) + ' %' : '';
}

function duration(seconds) {
  const hours = Math.floor(seconds / 3600);
  return hours + ' h ' + Math.floor(seconds % 3600 / 60) + ' min';
}

function show(id, text) { document.getElementById(id).textContent = text; }

function cell(content) {
  const td = document.createElement('td');
  if (content instanceof Node) td.append(content); else td.textContent = content ?? '';
  return td;
}

function fill(id, rows, empty) {
  const body = document.getElementById(id);
  body.replaceChildren(...(rows.length > 0 ? rows : [[empty]]).map((row) => {
    const tr = document.createElement('tr');
    tr.append(...row.map(cell));
    if (rows.length === 0) tr.firstChild.colSpan = 6;
    return tr;
  }));
}

function pullsLeft(quota) {
  if (quota === null) return 'not said';
  const limit = quota.limit === null ? '' : ' of ' + quota.limit;
  const span = quota.windowSeconds === null ? '' : ' in ' + duration(quota.windowSeconds);
  return (quota.remaining ?? 'unknown') + limit + span + ', as of ' + quota.observedAt;
}

function short(digest) { return digest.slice(0, 19); }

function image(each) {
  return each.upstream + '/' + each.repository + (each.platform ? ' (' + each.platform + ')' : '');
}

async function get(path) {
  const response = await fetch(path, { headers: { accept: 'application/json' } });
  if (!response.ok) throw new Error(path + ' answers ' + response.status);
  return response.json();
}

function retryButton(digest) {
  const button = document.createElement('button');
  button.textContent = 'try again';
  button.addEventListener('click', async () => {
    button.disabled = true;
    await fetch('dadi/v1/conversions/' + encodeURIComponent(digest) + '/retry', { method: 'POST' });
    await refresh();
  });
  return button;
}

function showStatus(status) {
  show('version', status.version);
  show('uptime', duration(status.uptimeSeconds));
  const troubles = status.checks.filter((check) => !check.isOk || check.message !== null);
  show('ready', (status.isReady ? 'ready' : 'not ready')
    + troubles.map((check) => '; ' + check.name + ': ' + check.message).join(''));
  document.getElementById('ready').className = status.isReady ? 'good' : 'bad';
  const { hits, misses } = status.cache;
  show('hits', (percent(hits, hits + misses) || 'no requests yet') + ' (' + hits + ' of ' + (hits + misses) + ')');
  show('free', bytes(status.store.freeBytes));
  const queue = Object.entries(status.conversions ?? {}).map(([state, count]) => count + ' ' + state);
  show('queue', queue.join(', ') || 'unknown');
  fill('upstreams', status.upstreams.map((each) => [each.name, each.state, each.reason, pullsLeft(each.quota),
    each.mirrors.map((mirror) => mirror.host + ': ' + mirror.state).join(', ')]), 'none');
  fill('downloads', status.downloads.map((each) => [image(each), short(each.digest),
    bytes(each.arrivedBytes) + ' of ' + bytes(each.totalBytes),
    percent(each.arrivedBytes, each.totalBytes)]), 'none');
  fill('pulls', status.pulls.map((each) => [each.at, image(each), each.reference, each.source]), 'none yet');
}

async function refresh() {
  try {
    const [status, running, failed] = await Promise.all([get('dadi/v1/status'),
      get('dadi/v1/conversions?state=running'), get('dadi/v1/conversions?state=failed')]);
    showStatus(status);
    fill('running', running.conversions.map((each) => [image(each), short(each.digest),
      each.layersDone + ' of ' + each.layersTotal + ' layers', percent(each.bytesDone, each.bytesTotal)]), 'none');
    fill('failures', failed.conversions.map((each) => [image(each), short(each.digest), each.error,
      each.attempts, each.nextAttemptAt ?? 'only when asked for', retryButton(each.digest)]), 'none');
    show('trouble', '');
  } catch (error) {
    show('trouble', 'The proxy cannot be asked: ' + error.message);
  }
}

async function loop() {
  if (!document.hidden) await refresh();
  setTimeout(loop, REFRESH_MS);
}
loop();
`;
