import { ClientError } from '../errors.ts';
import type { Attachment, AttachOptions } from './attach-contract.ts';
import { chooseMethod, inspectHost } from './choose-method.ts';
import { FuseAttachment } from './fuse-attachment.ts';
import { KernelNbdAttachment } from './kernel-nbd-attachment.ts';
import { prepareMount } from './mount-helpers.ts';

export type { Attachment, AttachOptions } from './attach-contract.ts';
export { prepareMount, stayReadyToMount } from './mount-helpers.ts';
export { detachRemains } from './remains.ts';

/**
 * Serves a device to the kernel and mounts it, read-only, in the way that suits this machine best. If it rejects, nothing
 * is left behind.
 * @throws ClientError ERR_ATTACH_UNSUPPORTED, ERR_ATTACH_FAILED, ERR_DETACH_FAILED; the system's errors; the signal's
 *   reason
 */
export async function attachDevice(options: AttachOptions): Promise<Attachment> {
  prepareMount();
  const choice = chooseMethod(options.fsType, await inspectHost());
  if (choice.kind === 'unsupported') throw new ClientError('ERR_ATTACH_UNSUPPORTED', choice.reason);
  return choice.method === 'nbd'
    ? KernelNbdAttachment.attach(options)
    : FuseAttachment.attach(choice.method, options);
}

/**
 * Takes up what a process that was killed, or released it, had attached with that work directory: the same device must
 * be served again. Reads that waited go on. Null if there is nothing (any more) to take up: call `detachRemains` then.
 * @throws SystemCallError
 */
export async function resumeAttachment(options: AttachOptions): Promise<Attachment | null> {
  return (await KernelNbdAttachment.resume(options)) ?? (await FuseAttachment.resume(options));
}
