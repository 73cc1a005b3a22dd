/**
 * A cable with a delay, for kernels without netem: relays TCP connections, and what is sent arrives so much later. A
 * new connection's first bytes wait for the handshake too. A process of its own, in the namespace of the server.
 * Usage: node bench/delay-relay.ts LISTEN-HOST PORT TARGET-PORT MILLISECONDS (each way)
 */
import { connect, createServer, type Socket } from 'node:net';
import process from 'node:process';

/** Written, and not taken by the receiver yet: more than a link of a gigabit carries in the delay. */
const MAX_WAITING_BYTES = 4 * 1024 * 1024;

const [host = '', port, targetPort, delay] = process.argv.slice(2);
const delayMs = Number(delay);

/** What arrives at `from` reaches `to` so much later, in order: timers of one length end in the order of their start. */
function carry(from: Socket, to: Socket, extraMs: number): void {
  const notBefore = performance.now() + extraMs;
  const later = (what: () => void) => setTimeout(what, Math.max(delayMs, notBefore - performance.now()));
  from.on('data', (bytes) => {
    later(() => {
      if (to.destroyed) return;
      to.write(bytes);
      if (to.writableLength < MAX_WAITING_BYTES) return;
      from.pause();
      to.once('drain', () => from.resume());
    });
  });
  from.once('end', () => later(() => to.end()));
  from.once('close', () => later(() => to.destroySoon()));
  from.once('error', () => to.destroy());
}

createServer((client) => {
  const target = connect(Number(targetPort), '127.0.0.1').setNoDelay();
  client.setNoDelay();
  carry(client, target, 3 * delayMs);
  carry(target, client, 0);
}).listen(Number(port), host);
