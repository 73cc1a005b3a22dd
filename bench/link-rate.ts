/** Of a link's speed as tc writes it: `20mbit`. */
export function bytesPerSecond(rate: string): number {
  const [, number = '', unit = ''] = /^(\d+)(k|m|g)bit$/.exec(rate) ?? [];
  const factor = { k: 1e3, m: 1e6, g: 1e9 }[unit];
  if (factor === undefined) throw new Error('write a rate as 20mbit or 1gbit');
  return (Number(number) * factor) / 8;
}
