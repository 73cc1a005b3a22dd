/**
 * Layer and file system uuids are the chain ID's first 128 bits, as the stock tools derive them, so that equal
 * chains give equal bytes.
 */
export function uuidBytes(chainId: string): Buffer {
  return Buffer.from(hexOf(chainId).slice(0, 32), 'hex');
}

/** The same as text, in upper case as LSMT headers hold it (8-4-4-4-12). */
export function uuidText(chainId: string): string {
  const hex = hexOf(chainId).toUpperCase();
  return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20, 32)].join(
    '-',
  );
}

function hexOf(digest: string): string {
  return digest.slice(digest.indexOf(':') + 1);
}
