/** A thread that converts layers, one at a time, and does work for other threads' layers in between. */
import process from 'node:process';
import { setImmediate } from 'node:timers/promises';
import { type MessagePort, parentPort, workerData } from 'node:worker_threads';
import { Bell } from './bell.ts';
import { convertLayer } from './convert-layer.ts';
import type { LayerMessage, LayerRequest, LayerTask, ThreadData } from './layer-protocol.ts';
import { LowerLayers } from './lower-layers.ts';
import { SharedWork } from './shared-work.ts';
import { lowerThreadPriority } from './thread-priority.ts';

class LayerThread {
  readonly #port: MessagePort;
  readonly #number: number;
  readonly #bell: Bell;
  /** Of its own layer. */
  readonly #work: SharedWork;
  #neighbours: readonly SharedWork[] = [];
  readonly #lowerLayers = new LowerLayers();
  /** With a layer of its own, and not waiting for those below it. */
  #isBusy = false;
  /** Which of its layers is at hand. */
  #turn = 0;
  /** What its layer waits for, once it has asked. */
  #parentPaths: PromiseWithResolvers<readonly string[]> | null = null;

  constructor(port: MessagePort, { number, work, bell }: ThreadData) {
    this.#port = port;
    this.#number = number;
    this.#bell = new Bell(bell);
    this.#work = new SharedWork(work);
    port.on('message', (request: LayerRequest) => this.#hear(request));
  }

  #hear(request: LayerRequest): void {
    switch (request.type) {
      case 'convert':
        this.#turn = request.turn;
        void this.#convert(request.task);
        return;
      case 'assemble':
        if (request.turn === this.#turn) this.#parentPaths?.resolve(request.parentPaths);
        return;
      case 'abort':
        if (request.turn === this.#turn) this.#parentPaths?.reject(new Error('the layer was given up'));
        return;
      case 'release':
        void this.#lowerLayers.close();
        return;
      case 'neighbours':
        void this.#meet(request.work);
        return;
      case 'end':
        // The thread alone.
        process.exit();
    }
  }

  async help(): Promise<never> {
    for (;;) {
      const heard = this.#bell.rings;
      await this.#helpUntilNothingIsLeft();
      await this.#bell.heardMoreThan(heard);
    }
  }

  /** They may have work already. */
  async #meet(work: readonly SharedArrayBuffer[]): Promise<void> {
    this.#neighbours = work.map((memory) => new SharedWork(memory));
    await this.#helpUntilNothingIsLeft();
  }

  async #convert(task: LayerTask): Promise<void> {
    this.#isBusy = true;
    this.#say(await this.#resultOf(task));
    this.#isBusy = false;
    await this.#helpUntilNothingIsLeft();
  }

  async #resultOf(task: LayerTask): Promise<LayerMessage> {
    try {
      const result = await convertLayer(task, {
        work: this.#work,
        bell: this.#bell,
        onProgress: (bytes) => this.#say({ type: 'progress', bytes }),
        parent: async () => this.#lowerLayers.device(await this.#askForParents()),
      });
      return { type: 'done', result };
    } catch (error) {
      const { code, message } = error as Error & { code?: string };
      return { type: 'failed', code: code ?? 'ERR_CONVERT_WORKER', message };
    }
  }

  async #askForParents(): Promise<readonly string[]> {
    this.#parentPaths = Promise.withResolvers();
    this.#isBusy = false;
    this.#say({ type: 'staged' });
    void this.#helpUntilNothingIsLeft();
    try {
      return await this.#parentPaths.promise;
    } finally {
      this.#parentPaths = null;
      this.#isBusy = true;
    }
  }

  /** Between pieces it hears what else it may be told. */
  async #helpUntilNothingIsLeft(): Promise<void> {
    while (!this.#isBusy && this.#neighbours.some((neighbour) => neighbour.help(this.#number))) {
      await setImmediate();
    }
  }

  #say(message: LayerMessage): void {
    this.#port.postMessage(message);
  }
}

if (parentPort !== null) {
  const data = workerData as ThreadData;
  lowerThreadPriority(data.niceness);
  void new LayerThread(parentPort, data).help();
}
