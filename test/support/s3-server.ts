import { mkdirSync } from 'node:fs';
import { createServer, type IncomingMessage, request as requestHttp, type ServerResponse } from 'node:http';
import { createRequire } from 'node:module';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import process from 'node:process';
import type { S3Location } from '../../src/store/s3-objects.ts';
import { freePort, start } from './processes.ts';

/** The credentials that s3rver takes. */
const CREDENTIALS = { accessKeyId: 'S3RVER', secretAccessKey: 'S3RVER' };
const BUCKET = 'blobs';

/** A request on its way to the server: "METHOD key?query", without the bucket. */
export type S3Request = string;

/** A real S3-compatible server (s3rver), in a process of its own, and a gateway in front of it that can be told to fail. */
export interface S3Server {
  /** For stores, by way of the gateway. */
  readonly location: S3Location;
  /** What came by since it was emptied. */
  readonly requests: S3Request[];
  /** Answers requests itself: true if it did. */
  intercept: ((what: S3Request, request: IncomingMessage, response: ServerResponse) => boolean) | null;
  /** Changes what the server answers; the length stays. */
  change: ((what: S3Request, piece: Buffer) => Buffer) | null;
  /** The file in which the server keeps an object: s3rver's own form. */
  fileOf(key: string): string;
  stop(): Promise<void>;
}

/** s3rver knows neither the list of unfinished uploads nor how to abort one, and overwrites objects in place. */
export async function startS3Server(directory: string): Promise<S3Server> {
  mkdirSync(directory, { recursive: true });
  const port = await freePort();
  const program = createRequire(import.meta.url).resolve('s3rver/bin/s3rver.js');
  const files = join(directory, 'files');
  const s3rver = await start(
    process.execPath,
    [program, '-d', files, '-a', '127.0.0.1', '-p', String(port), '--silent', '--configure-bucket', BUCKET],
    {
      logPath: join(directory, 's3rver.log'),
      readyWhen: () => answers(port),
    },
  );
  const gateway = createServer((incoming, outgoing) => {
    const what = `${incoming.method} ${decodeURIComponent((incoming.url ?? '').replace(`/${BUCKET}`, '').slice(1))}`;
    server.requests.push(what);
    if (server.intercept?.(what, incoming, outgoing)) {
      incoming.resume();
      return;
    }
    const { method, url, headers } = incoming;
    const forwarded = requestHttp({ host: '127.0.0.1', port, method, path: url, headers }, (answer) => {
      outgoing.writeHead(answer.statusCode ?? 500, answer.headers);
      answer.on('data', (piece: Buffer) => {
        const isTaken = outgoing.write(server.change?.(what, piece) ?? piece);
        if (isTaken) return;
        answer.pause();
        outgoing.once('drain', () => answer.resume());
      });
      answer.on('end', () => outgoing.end());
    });
    forwarded.on('error', () => outgoing.destroy());
    outgoing.on('close', () => forwarded.destroy());
    incoming.pipe(forwarded);
  });
  gateway.listen(0, '127.0.0.1');
  await new Promise((resolve) => gateway.once('listening', resolve));
  const endpoint = `http://127.0.0.1:${(gateway.address() as AddressInfo).port}`;
  const server: S3Server = {
    location: {
      bucket: BUCKET,
      prefix: '',
      endpoint,
      region: 'us-east-1',
      pathStyle: true,
      credentials: CREDENTIALS,
    },
    requests: [],
    intercept: null,
    change: null,
    fileOf: (key) => join(files, BUCKET, `${key}._S3rver_object`),
    stop: async () => {
      gateway.close();
      gateway.closeAllConnections();
      await s3rver.stop();
    },
  };
  return server;
}

function answers(port: number): Promise<boolean> {
  return new Promise((resolve, reject) => {
    const request = requestHttp({ host: '127.0.0.1', port, path: '/' }, (response) => {
      response.resume();
      resolve(true);
    });
    request.once('error', reject);
    request.end();
  });
}
