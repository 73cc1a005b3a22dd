/** An image in an OCI image layout, as users name it. */
export interface LayoutReference {
  readonly directory: string;
  readonly tag: string | null;
}

const PREFIX = 'oci:';

/** `oci:DIRECTORY[:TAG]`, or null if the text is something else. What follows the last colon but is no tag is part of the directory. */
export function parseLayoutReference(text: string): LayoutReference | null {
  if (!text.startsWith(PREFIX)) return null;
  const [, directory = '', tag = null] =
    /^(.*?)(?::([\w][\w.-]{0,127}))?$/s.exec(text.slice(PREFIX.length)) ?? [];
  return { directory, tag };
}

/** The text that {@link parseLayoutReference} takes for the same. */
export function formatLayoutReference({ directory, tag }: LayoutReference): string {
  if (tag !== null) return `${PREFIX}${directory}:${tag}`;
  // A slash ends a directory whose name could pass for a tag.
  return parseLayoutReference(`${PREFIX}${directory}`)?.tag === null
    ? `${PREFIX}${directory}`
    : `${PREFIX}${directory}/`;
}
