import { type Dispatcher, errors } from 'undici';

export interface ProgressLimits {
  /** From the request until its answer's headers are there, however they trickle in. */
  readonly headersMs: number;
  /** How long a body may take for `progressMinBytes`, while we are ready for more. */
  readonly progressWindowMs: number;
  readonly progressMinBytes: number;
}

/** Ends answers that come too slowly to be of use: time-outs between two pieces never end one that trickles. */
export function progressGuard(limits: ProgressLimits): Dispatcher.DispatcherComposeInterceptor {
  return (dispatch) => (options, handler) => dispatch(options, new GuardedHandler(handler, limits));
}

class GuardedHandler implements Dispatcher.DispatchHandler {
  readonly #handler: Dispatcher.DispatchHandler;
  readonly #limits: ProgressLimits;
  #timer: NodeJS.Timeout | undefined;
  #windowBytes = 0;
  /** Our reader was slow at some time in this window: the registry is not to blame. */
  #hasPaused = false;

  constructor(handler: Dispatcher.DispatchHandler, limits: ProgressLimits) {
    this.#handler = handler;
    this.#limits = limits;
  }

  onRequestStart(controller: Dispatcher.DispatchController, context: unknown): void {
    const { headersMs } = this.#limits;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(
      () => controller.abort(new errors.HeadersTimeoutError(`no answer within ${headersMs} ms`)),
      headersMs,
    );
    this.#handler.onRequestStart?.(controller, context);
  }

  onResponseStart(...args: Parameters<NonNullable<Dispatcher.DispatchHandler['onResponseStart']>>): void {
    const [controller, status] = args;
    if (status >= 200) this.#beginWindow(controller);
    this.#handler.onResponseStart?.(...args);
  }

  onResponseData(controller: Dispatcher.DispatchController, piece: Buffer): void {
    this.#windowBytes += piece.length;
    this.#handler.onResponseData?.(controller, piece);
    this.#hasPaused ||= controller.paused;
  }

  onResponseEnd(...args: Parameters<NonNullable<Dispatcher.DispatchHandler['onResponseEnd']>>): void {
    clearTimeout(this.#timer);
    this.#handler.onResponseEnd?.(...args);
  }

  onResponseError(controller: Dispatcher.DispatchController, error: Error): void {
    clearTimeout(this.#timer);
    this.#handler.onResponseError?.(controller, error);
  }

  #beginWindow(controller: Dispatcher.DispatchController): void {
    const { progressWindowMs, progressMinBytes } = this.#limits;
    clearTimeout(this.#timer);
    this.#windowBytes = 0;
    this.#hasPaused = controller.paused;
    this.#timer = setTimeout(() => {
      if (this.#hasPaused || controller.paused || this.#windowBytes >= progressMinBytes) {
        this.#beginWindow(controller);
        return;
      }
      const message = `only ${this.#windowBytes} bytes came within ${progressWindowMs} ms`;
      controller.abort(new errors.BodyTimeoutError(message));
    }, progressWindowMs);
  }
}
