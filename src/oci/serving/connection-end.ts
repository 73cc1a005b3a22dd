import type { Socket } from 'node:net';

/** Who is to hear of it, by connection. */
const waiting = new WeakMap<Socket, Set<() => void>>();

/**
 * Calls `listener` when a connection has ended, unless it is taken back. However many wait for the same connection
 * (a client may send any number of requests without waiting for answers), the socket has one listener.
 *
 * @returns takes it back
 */
export function onConnectionEnd(socket: Socket, listener: () => void): () => void {
  const listeners = waiting.get(socket) ?? watch(socket);
  listeners.add(listener);
  return () => listeners.delete(listener);
}

function watch(socket: Socket): Set<() => void> {
  const listeners = new Set<() => void>();
  waiting.set(socket, listeners);
  socket.once('close', () => {
    for (const listener of listeners) listener();
  });
  return listeners;
}
