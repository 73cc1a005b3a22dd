/** What containerd's configuration says of snapshotters. */
export interface ContainerdSnapshotters {
  /** Sockets of the proxy plugins for snapshots, by the plugin's name. */
  readonly plugins: ReadonlyMap<string, string>;
  /** Which snapshotter the CRI plugin uses; null if it does not say. */
  readonly cri: string | null;
  /** Whether the CRI plugin keeps from snapshotters which image a layer is of. */
  readonly disablesAnnotations: boolean;
}

/**
 * Reads what `containerd config dump` prints: tables and keys one a line, as its TOML writer puts them. Of what
 * people write by hand it understands that much.
 */
export function parseContainerdSnapshotters(toml: string): ContainerdSnapshotters {
  const plugins = new Map<string, string>();
  let cri: string | null = null;
  let disablesAnnotations = true;
  let table: readonly string[] = [];
  for (const line of toml.split('\n')) {
    const [, header] = /^\s*\[([^[\]]+)\]\s*(?:#.*)?$/.exec(line) ?? [];
    if (header !== undefined) {
      table =
        header.match(/"[^"]*"|'[^']*'|[^."']+/g)?.map((part) => part.replace(/^["']|["']$/g, '').trim()) ??
        [];
      continue;
    }
    const [, key, text, word] = /^\s*([\w-]+)\s*=\s*(?:["']([^"']*)["']|(\w+))/.exec(line) ?? [];
    if (key === undefined) continue;
    const [first, second = ''] = table;
    if (first === 'proxy_plugins' && key === 'address' && text !== undefined) plugins.set(second, text);
    // 1.6's grpc.v1.cri, or the images and runtime plugins that 2.0 made of it.
    const isCri = first === 'plugins' && /cri/.test(second);
    if (isCri && key === 'snapshotter' && text) cri ??= text;
    if (isCri && key === 'disable_snapshot_annotations') disablesAnnotations = word !== 'false';
  }
  return { plugins, cri, disablesAnnotations };
}
