import type { Dispatcher } from 'undici';

/** Hears of every request to a registry, its token services, and where it leads. */
export interface ExchangeObserver {
  /** `status` is null if there was no answer; `durationMs` until its headers, or until that was clear. */
  answered(status: number | null, durationMs: number): void;
  /** A piece of a body came. */
  received(bytes: number): void;
}

/** To be composed into a dispatcher: tells the observer, and changes nothing. */
export function observing(observer: ExchangeObserver): Dispatcher.DispatcherComposeInterceptor {
  return (dispatch) => (options, handler) => {
    const startedMs = performance.now();
    let isAnswered = false;
    const answered = (status: number | null) => {
      if (!isAnswered) observer.answered(status, performance.now() - startedMs);
      isAnswered = true;
    };
    return dispatch(options, {
      onRequestStart: (controller, context) => handler.onRequestStart?.(controller, context),
      onRequestUpgrade: (controller, status, headers, socket) =>
        handler.onRequestUpgrade?.(controller, status, headers, socket),
      onResponseStart: (controller, status, headers, message) => {
        answered(status);
        return handler.onResponseStart?.(controller, status, headers, message);
      },
      onResponseData: (controller, chunk) => {
        observer.received(chunk.length);
        return handler.onResponseData?.(controller, chunk);
      },
      onResponseEnd: (controller, trailers) => handler.onResponseEnd?.(controller, trailers),
      onResponseError: (controller, error) => {
        answered(null);
        return handler.onResponseError?.(controller, error);
      },
    });
  };
}
