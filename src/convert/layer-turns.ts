/** Whose layers are converted when: those of one image in order, images side by side. */
export interface ImageTurns {
  /**
   * Runs `work`, which converts at most one layer, when it is its turn, after all that this image asked for before:
   * so a layer whose turn it is waits for layers below it that are being converted, never for one that has no turn.
   * Rejects with the signal's reason if that fires before.
   */
  run<T>(work: () => Promise<T>, signal: AbortSignal): Promise<T>;
}

interface Image {
  readonly priority: () => number;
  readonly waiting: (() => void)[];
  running: number;
}

/** So many turns at a time. The next one goes to the most urgent image, and among equals to who has the fewest. */
export class LayerTurns {
  readonly #size: number;
  readonly #onIdle: () => void;
  readonly #images = new Set<Image>();
  #running = 0;

  /** @param onIdle called when nobody has a turn or waits for one */
  constructor(size: number, onIdle: () => void) {
    this.#size = size;
    this.#onIdle = onIdle;
  }

  /** @param priority the greater one goes first; may change while it waits */
  image(priority: () => number): ImageTurns {
    const image: Image = { priority, waiting: [], running: 0 };
    return { run: (work, signal) => this.#run(image, work, signal) };
  }

  async #run<T>(image: Image, work: () => Promise<T>, signal: AbortSignal): Promise<T> {
    await this.#turn(image, signal);
    try {
      return await work();
    } finally {
      image.running--;
      this.#running--;
      this.#next();
      this.#forgetIfOver(image);
    }
  }

  #turn(image: Image, signal: AbortSignal): Promise<void> {
    signal.throwIfAborted();
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    // Others may have all turns for a long time: who gives up is not to wait for one.
    const giveUp = () => {
      image.waiting.splice(image.waiting.indexOf(begin), 1);
      this.#forgetIfOver(image);
      reject(signal.reason);
    };
    const begin = () => {
      signal.removeEventListener('abort', giveUp);
      resolve();
    };
    signal.addEventListener('abort', giveUp, { once: true });
    image.waiting.push(begin);
    this.#images.add(image);
    this.#next();
    return promise;
  }

  #forgetIfOver(image: Image): void {
    if (image.running > 0 || image.waiting.length > 0) return;
    this.#images.delete(image);
    if (this.#images.size === 0) this.#onIdle();
  }

  #next(): void {
    while (this.#running < this.#size) {
      const waiting = [...this.#images].filter((image) => image.waiting.length > 0);
      const [first] = waiting.sort((a, b) => b.priority() - a.priority() || a.running - b.running);
      if (first === undefined) return;
      this.#running++;
      first.running++;
      first.waiting.shift()?.();
    }
  }
}
