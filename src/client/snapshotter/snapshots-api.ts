import type { ServiceDefinition } from '@grpc/grpc-js';
import { fromJSON } from '@grpc/proto-loader';

/** What mount(2) takes. */
export interface Mount {
  readonly type: string;
  readonly source: string;
  readonly options: readonly string[];
}

export type SnapshotKind = 'view' | 'active' | 'committed';

export type Labels = Readonly<Record<string, string>>;

interface Timestamp {
  readonly seconds: number;
  readonly nanos: number;
}

/** A snapshot on the wire. */
export interface InfoMessage {
  readonly name: string;
  readonly parent: string;
  readonly kind: 'UNKNOWN' | 'VIEW' | 'ACTIVE' | 'COMMITTED';
  readonly created_at: Timestamp | null;
  readonly updated_at: Timestamp | null;
  readonly labels: Labels;
}

export interface KeyRequest {
  readonly key: string;
}

export interface PrepareRequest {
  readonly key: string;
  /** Empty if there is none. */
  readonly parent: string;
  readonly labels: Labels;
}

export interface CommitRequest {
  readonly name: string;
  readonly key: string;
  readonly labels: Labels;
}

export interface UpdateRequest {
  readonly info: InfoMessage | null;
  readonly update_mask: { readonly paths: readonly string[] } | null;
}

export interface ListRequest {
  readonly filters: readonly string[];
}

export interface MountsResponse {
  readonly mounts: readonly Mount[];
}

export interface InfoResponse {
  readonly info: InfoMessage;
}

export interface ListResponse {
  readonly info: readonly InfoMessage[];
}

export interface UsageResponse {
  readonly size: number;
  readonly inodes: number;
}

type Namespace = Parameters<typeof fromJSON>[0];

const string = (id: number) => ({ id, type: 'string' });
const message = (type: string, id: number) => ({ id, type });
const list = (type: string, id: number) => ({ id, type, rule: 'repeated' });
const labels = (id: number) => ({ id, type: 'string', keyType: 'string' });
const call = (requestType: string, responseType: string) => ({ requestType, responseType, comment: '' });

const EMPTY = '.google.protobuf.Empty';
const FIELD_MASK = '.google.protobuf.FieldMask';
const TIMESTAMP = '.google.protobuf.Timestamp';
const MOUNT = '.containerd.types.Mount';
const INFO = '.containerd.services.snapshots.v1.Info';

const keyed = { fields: { snapshotter: string(1), key: string(2) } };
const prepared = { fields: { snapshotter: string(1), key: string(2), parent: string(3), labels: labels(4) } };
const mounted = { fields: { mounts: list(MOUNT, 1) } };
const described = { fields: { info: message(INFO, 1) } };

/** containerd's snapshots service, version 1 (containerd, api/services/snapshots/v1/snapshots.proto). */
const SNAPSHOTS: NonNullable<Namespace['nested']> = {
  Kind: { values: { UNKNOWN: 0, VIEW: 1, ACTIVE: 2, COMMITTED: 3 } },
  Info: {
    fields: {
      name: string(1),
      parent: string(2),
      kind: message('Kind', 3),
      created_at: message(TIMESTAMP, 4),
      updated_at: message(TIMESTAMP, 5),
      labels: labels(6),
    },
  },
  PrepareSnapshotRequest: prepared,
  PrepareSnapshotResponse: mounted,
  ViewSnapshotRequest: prepared,
  ViewSnapshotResponse: mounted,
  MountsRequest: keyed,
  MountsResponse: mounted,
  RemoveSnapshotRequest: keyed,
  CommitSnapshotRequest: {
    fields: { snapshotter: string(1), name: string(2), key: string(3), labels: labels(4) },
  },
  StatSnapshotRequest: keyed,
  StatSnapshotResponse: described,
  UpdateSnapshotRequest: {
    fields: { snapshotter: string(1), info: message(INFO, 2), update_mask: message(FIELD_MASK, 3) },
  },
  UpdateSnapshotResponse: described,
  ListSnapshotsRequest: { fields: { snapshotter: string(1), filters: list('string', 2) } },
  ListSnapshotsResponse: { fields: { info: list(INFO, 1) } },
  UsageRequest: keyed,
  UsageResponse: { fields: { size: message('int64', 1), inodes: message('int64', 2) } },
  CleanupRequest: { fields: { snapshotter: string(1) } },
  Snapshots: {
    methods: {
      Prepare: call('PrepareSnapshotRequest', 'PrepareSnapshotResponse'),
      View: call('ViewSnapshotRequest', 'ViewSnapshotResponse'),
      Mounts: call('MountsRequest', 'MountsResponse'),
      Commit: call('CommitSnapshotRequest', EMPTY),
      Remove: call('RemoveSnapshotRequest', EMPTY),
      Stat: call('StatSnapshotRequest', 'StatSnapshotResponse'),
      Update: call('UpdateSnapshotRequest', 'UpdateSnapshotResponse'),
      List: { ...call('ListSnapshotsRequest', 'ListSnapshotsResponse'), responseStream: true },
      Usage: call('UsageRequest', 'UsageResponse'),
      Cleanup: call('CleanupRequest', EMPTY),
    },
  },
};

const inPackage = (path: string, nested: NonNullable<Namespace['nested']>): Namespace =>
  path.split('.').reduceRight<Namespace>((inner, name) => ({ nested: { [name]: inner } }), { nested });

/** As protobuf.js writes a schema down: a package that was built has no .proto file beside it. */
const SCHEMA: Namespace = {
  nested: {
    ...inPackage('google.protobuf', {
      Empty: { fields: {} },
      FieldMask: { fields: { paths: list('string', 1) } },
      Timestamp: { fields: { seconds: message('int64', 1), nanos: message('int32', 2) } },
    }).nested,
    containerd: {
      nested: {
        // containerd, api/types/mount.proto
        types: {
          nested: {
            Mount: {
              fields: { type: string(1), source: string(2), target: string(3), options: list('string', 4) },
            },
          },
        },
        ...inPackage('services.snapshots.v1', SNAPSHOTS).nested,
      },
    },
  },
};

/** containerd's snapshots service. Fields that a message lacks read as what protobuf takes for them. */
export const SNAPSHOTS_SERVICE = fromJSON(SCHEMA, {
  keepCase: true,
  longs: Number,
  enums: String,
  defaults: true,
  arrays: true,
  objects: true,
})['containerd.services.snapshots.v1.Snapshots'] as ServiceDefinition;
