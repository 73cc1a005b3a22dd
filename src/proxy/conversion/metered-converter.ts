import type { ConversionProgress } from '../../store/conversion-table.ts';
import type { Metrics } from '../operators/metrics.ts';
import type { Converter } from './conversion-queue.ts';

/** The same converter, whose conversions are counted. Those that are given back are neither done nor failed. */
export function meteredConverter(
  convert: Converter,
  metrics: Pick<Metrics, 'conversionDone' | 'conversionFailed'>,
): Converter {
  return async (record, { signal, onProgress, priority }) => {
    const startedMs = performance.now();
    let layerBytes = 0;
    const watch = (progress: ConversionProgress) => {
      layerBytes = progress.bytesTotal;
      onProgress(progress);
    };
    try {
      const converted = await convert(record, { signal, onProgress: watch, priority });
      metrics.conversionDone(performance.now() - startedMs, layerBytes);
      return converted;
    } catch (error) {
      if (!signal.aborted) metrics.conversionFailed();
      throw error;
    }
  };
}
