import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { parseContainerdSnapshotters } from './containerd-config.ts';
import { type Finding, good, limited } from './finding.ts';

const run = promisify(execFile);
const TIMEOUT_MS = 10_000;

const SET_UP = '"dadi setup containerd" writes what it needs';

/**
 * Whether containerd is there, and asks our snapshotter.
 * @param configFile containerd's own
 * @param socket the snapshotter's
 */
export async function containerdFindings(configFile: string, socket: string): Promise<Finding[]> {
  const version = await output(['--version']);
  if (version === null) {
    return [
      limited(
        'containerd',
        'it is not installed, or not on PATH',
        'nobody asks the snapshotter; images can still be mounted by "dadi mount", and pulled through the mirror',
        'containerd 1.6 or newer',
      ),
    ];
  }
  const found = version.trim().split(/\s+/).slice(0, 3).join(' ');
  return [good('containerd', found, 'it can use the snapshotter'), await configured(configFile, socket)];
}

async function configured(configFile: string, socket: string): Promise<Finding> {
  const name = "containerd's configuration";
  const dump = await output(['--config', configFile, 'config', 'dump']);
  if (dump === null) {
    return limited(
      name,
      `${configFile} cannot be read`,
      'it is not clear whether containerd asks us',
      SET_UP,
    );
  }
  const { plugins, cri, disablesAnnotations } = parseContainerdSnapshotters(dump);
  const plugin = Array.from(plugins).find(([, address]) => address.replace(/^unix:\/\//, '') === socket)?.[0];
  if (plugin === undefined) {
    const others = Array.from(plugins, ([other, address]) => `${other} at ${address}`).join(', ');
    return limited(
      name,
      `no proxy plugin of ${configFile} names ${socket}${others && ` (there is ${others})`}`,
      'containerd does not know the snapshotter',
      SET_UP,
    );
  }
  if (cri !== plugin) {
    return limited(
      name,
      `the proxy plugin ${plugin} is ours, and the CRI plugin uses ${cri ?? 'its default'}`,
      `Kubernetes' images are not read lazily; "ctr --snapshotter ${plugin}" and the like are`,
      `snapshotter = "${plugin}" for the CRI plugin; ${SET_UP}`,
    );
  }
  if (disablesAnnotations) {
    return limited(
      name,
      'the CRI plugin has disable_snapshot_annotations = true',
      'the snapshotter is not told which image a layer is of: every image is downloaded whole',
      'disable_snapshot_annotations = false',
    );
  }
  return good(name, `the CRI plugin uses ${plugin}, at ${socket}`, 'images are read lazily');
}

/** Null if it cannot be run, or fails. */
async function output(args: readonly string[]): Promise<string | null> {
  try {
    return (await run('containerd', args, { timeout: TIMEOUT_MS })).stdout;
  } catch {
    return null;
  }
}
