/** Line charts as SVG: a few curves of numbers, readable in a browser and in a printed page. */

export interface Curve {
  readonly name: string;
  /** From 0: curves of the same style look the same in all charts. */
  readonly style: number;
  /** Ascending by x. */
  readonly points: readonly (readonly [x: number, y: number])[];
}

export interface ChartOptions {
  readonly title: string;
  readonly x: { readonly label: string; readonly isLogarithmic?: boolean };
  readonly y: { readonly label: string; readonly isLogarithmic?: boolean };
  readonly curves: readonly Curve[];
  /** Under the chart: what the numbers are. */
  readonly notes: readonly string[];
}

const WIDTH = 760;
const PLOT = { left: 70, top: 46, width: 480, height: 300 };
/** Told apart without colours too: dashes differ. */
const STYLES = [
  { colour: '#1b6ca8', dash: '' },
  { colour: '#c44536', dash: '7 4' },
  { colour: '#3a7d44', dash: '2 3' },
  { colour: '#7b4b94', dash: '10 3 2 3' },
  { colour: '#b8860b', dash: '4 2' },
  { colour: '#4d4d4d', dash: '12 4' },
];
const TICKS = 5;

/** One axis: where a value stands, from 0 to 1, and which values are named. */
interface Scale {
  readonly at: (value: number) => number;
  readonly ticks: readonly number[];
}

export function lineChart({ title, x, y, curves, notes }: ChartOptions): string {
  const points = curves.flatMap((curve) => curve.points);
  const xScale = scaleOf(
    points.map(([value]) => value),
    x.isLogarithmic === true,
  );
  const yScale = scaleOf(
    [...points.map(([, value]) => value), ...(y.isLogarithmic ? [] : [0])],
    y.isLogarithmic === true,
  );
  const left = (value: number) => round(PLOT.left + xScale.at(value) * PLOT.width);
  const top = (value: number) => round(PLOT.top + (1 - yScale.at(value)) * PLOT.height);
  const [right, bottom] = [PLOT.left + PLOT.width, PLOT.top + PLOT.height];
  const height = bottom + 62 + 16 * notes.length;
  const parts = [
    text(PLOT.left, 26, title, 'font-size="16" font-weight="bold"'),
    ...yScale.ticks.flatMap((value) => [
      line(PLOT.left, top(value), right, top(value), 'stroke="#ddd"'),
      text(PLOT.left - 8, top(value) + 4, numberText(value), 'text-anchor="end"'),
    ]),
    ...xScale.ticks.flatMap((value) => [
      line(left(value), bottom, left(value), bottom + 5, 'stroke="#444"'),
      text(left(value), bottom + 20, numberText(value), 'text-anchor="middle"'),
    ]),
    line(PLOT.left, bottom, right, bottom, 'stroke="#444"'),
    line(PLOT.left, PLOT.top, PLOT.left, bottom, 'stroke="#444"'),
    text(PLOT.left + PLOT.width / 2, bottom + 40, x.label, 'text-anchor="middle"'),
    text(
      0,
      0,
      y.label,
      `text-anchor="middle" transform="translate(18 ${PLOT.top + PLOT.height / 2}) rotate(-90)"`,
    ),
    ...curves.flatMap((curve, index) => {
      const { colour, dash } = STYLES[curve.style % STYLES.length]!;
      const stroke = `stroke="${colour}" stroke-width="2" stroke-dasharray="${dash}"`;
      const path = curve.points.map((point) => `${left(point[0])},${top(point[1])}`).join(' ');
      const legend = PLOT.top + 12 + 20 * index;
      return [
        `<polyline fill="none" ${stroke} points="${path}"/>`,
        line(right + 14, legend, right + 44, legend, stroke),
        text(right + 50, legend + 4, curve.name, ''),
      ];
    }),
    ...notes.map((note, index) => text(PLOT.left, bottom + 62 + 16 * index, note, 'fill="#555"')),
  ];
  const size = `width="${WIDTH}" height="${height}" viewBox="0 0 ${WIDTH} ${height}"`;
  return `<svg xmlns="http://www.w3.org/2000/svg" ${size} font-family="sans-serif" font-size="12">
<title>${escaped(title)}</title>
<rect width="100%" height="100%" fill="white"/>
${parts.join('\n')}
</svg>
`;
}

function scaleOf(values: readonly number[], isLogarithmic: boolean): Scale {
  const [low, high] = [Math.min(...values), Math.max(...values)];
  if (isLogarithmic) {
    const [from, to] = [
      Math.floor(Math.log10(low)),
      Math.max(Math.ceil(Math.log10(high)), Math.floor(Math.log10(low)) + 1),
    ];
    const ticks = Array.from({ length: to - from + 1 }, (_, index) => 10 ** (from + index));
    return { at: (value) => (Math.log10(value) - from) / (to - from), ticks };
  }
  const step = niceStep((high - low) / TICKS);
  const from = Math.floor(low / step) * step;
  const count = Math.max(1, Math.ceil((high - from) / step));
  const ticks = Array.from({ length: count + 1 }, (_, index) => from + index * step);
  return { at: (value) => (value - from) / (count * step), ticks };
}

/** 1, 2 or 5 times a power of ten. */
function niceStep(step: number): number {
  const power = 10 ** Math.floor(Math.log10(step > 0 ? step : 1));
  const times = [1, 2, 5, 10].find((factor) => factor * power >= step) ?? 10;
  return times * power;
}

function numberText(value: number): string {
  return Number(value.toPrecision(6)).toLocaleString('en-US');
}

function round(value: number): number {
  return Math.round(value * 10) / 10;
}

function line(x1: number, y1: number, x2: number, y2: number, attributes: string): string {
  return `<line x1="${x1}" y1="${y1}" x2="${x2}" y2="${y2}" ${attributes}/>`;
}

function text(x: number, y: number, content: string, attributes: string): string {
  return `<text x="${x}" y="${y}" ${attributes}>${escaped(content)}</text>`;
}

function escaped(content: string): string {
  return content.replaceAll('&', '&amp;').replaceAll('<', '&lt;');
}
