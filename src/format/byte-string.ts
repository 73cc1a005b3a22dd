/**
 * Bytes that name something (a path, a link target, an xattr), one character a byte (latin1): names in tar
 * archives and file systems need not be UTF-8. As a string they are a map key, and string order is byte order.
 */
export type ByteString = string;

/** The bytes behind a {@link ByteString}. */
export function toBytes(text: ByteString): Buffer {
  return Buffer.from(text, 'latin1');
}

/** A {@link ByteString} for people: as UTF-8 where it is that, else with the other bytes escaped. */
export function toDisplay(text: ByteString): string {
  const bytes = toBytes(text);
  const decoded = bytes.toString('utf8');
  return Buffer.from(decoded, 'utf8').equals(bytes)
    ? decoded
    : text.replace(/[^ -~]/g, (char) => `\\x${char.charCodeAt(0).toString(16).padStart(2, '0')}`);
}
