import { resolve } from 'node:path';

/** What `dadi` is out of the sources. */
export const SOURCES_MAIN = resolve(import.meta.dirname, '../../src/cli/main.ts');
/** As `npm run build` makes it, and users have it: starts faster, and takes less processor time. */
export const BUILT_MAIN = resolve(import.meta.dirname, '../../dist/cli/main.js');
