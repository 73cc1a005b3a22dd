import { createSocket } from 'node:dgram';
import { lookup } from 'node:dns/promises';
import { networkInterfaces } from 'node:os';
import { bareAddress, hostInUrl } from '../../oci/registry-url.ts';

/** This host's address on the way to another one: nothing is sent. Rejects if there is no way. */
async function addressTowards({ hostname }: URL): Promise<string> {
  const { address, family } = await lookup(bareAddress(hostname));
  const socket = createSocket(family === 6 ? 'udp6' : 'udp4');
  try {
    await new Promise<void>((resolve, reject) => {
      socket.once('error', reject);
      // Any port: a datagram socket that is connected has an address, and says nothing.
      socket.connect(9, address, resolve);
    });
    return socket.address().address;
  } finally {
    socket.close();
  }
}

/** The address by which other hosts reach this one: that of the way to a root, else the first that there is. */
export async function ownAddress(root: URL, onFailure: (error: unknown) => void): Promise<string> {
  try {
    return hostInUrl(await addressTowards(root));
  } catch (error) {
    onFailure(error);
    const all = Object.values(networkInterfaces()).flatMap((addresses) => addresses ?? []);
    return hostInUrl(all.find(({ internal }) => !internal)?.address ?? '127.0.0.1');
  }
}
