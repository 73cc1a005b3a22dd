// Import directions: a folder may import only what stands in its row. See "Where things are" in README.md.
const mayImport = {
  format: [],
  oci: ['format'],
  store: ['format', 'oci'],
  convert: ['format', 'oci', 'store'],
  p2p: ['format', 'oci'],
  client: ['format', 'oci', 'p2p'],
  proxy: ['format', 'oci', 'store', 'convert', 'p2p'],
  cli: ['format', 'oci', 'store', 'convert', 'p2p', 'client', 'proxy'],
};

const directions = Object.entries(mayImport).map(([folder, below]) => ({
  name: `${folder}-imports-downward`,
  severity: 'error',
  from: { path: `^src/${folder}/` },
  to: { path: '^src/', pathNot: `^src/(${[folder, ...below].join('|')})/` },
}));

export default {
  forbidden: [
    ...directions,
    { name: 'no-cycles', severity: 'error', from: {}, to: { circular: true } },
    {
      name: 'src-stands-alone',
      severity: 'error',
      from: { path: '^src/', pathNot: '\\.test\\.ts$' },
      to: { path: '^(test|bench|demo|scripts)/' },
    },
    { name: 'resolvable', severity: 'error', from: {}, to: { couldNotResolve: true } },
  ],
  options: {
    doNotFollow: { path: 'node_modules' },
    tsPreCompilationDeps: true,
    tsConfig: { fileName: 'tsconfig.json' },
    parser: 'swc',
    enhancedResolveOptions: {
      exportsFields: ['exports'],
      extensions: ['.ts', '.mjs', '.js'],
      conditionNames: ['import', 'node', 'default', 'types'],
    },
  },
};
