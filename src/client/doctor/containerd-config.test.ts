import { expect, test } from 'vitest';
import { parseContainerdSnapshotters } from './containerd-config.ts';

const CRI_1_6 = 'plugins."io.containerd.grpc.v1.cri"';

test('our plugin and the CRI plugin are found in what containerd 1.6 prints', () => {
  const toml = `version = 2
[plugins]
  [${CRI_1_6}]
    sandbox_image = "pause"
    [${CRI_1_6}.containerd]
      disable_snapshot_annotations = false
      snapshotter = "dadi"
      [${CRI_1_6}.containerd.default_runtime]
        snapshotter = ""
  [plugins."io.containerd.service.v1.tasks-service"]
    snapshotter = "another"
[proxy_plugins]
  [proxy_plugins.dadi]
    type = "snapshot"
    address = "/run/dadi/snapshotter.sock"
`;
  expect(parseContainerdSnapshotters(toml)).toEqual({
    plugins: new Map([['dadi', '/run/dadi/snapshotter.sock']]),
    cri: 'dadi',
    disablesAnnotations: false,
  });
});

test('they are found in what containerd 2 prints, with names in quotes', () => {
  const toml = `version = 3
[plugins.'io.containerd.cri.v1.images']
  snapshotter = 'dadi'
  disable_snapshot_annotations = false
[proxy_plugins."dadi"] # ours
  address = 'unix:///s.sock'
`;
  expect(parseContainerdSnapshotters(toml)).toEqual({
    plugins: new Map([['dadi', 'unix:///s.sock']]),
    cri: 'dadi',
    disablesAnnotations: false,
  });
});

test('what is not said of annotations means that there are none: that is the default', () => {
  expect(parseContainerdSnapshotters('')).toEqual({
    plugins: new Map(),
    cri: null,
    disablesAnnotations: true,
  });
});
