// Import directions: a folder may import only what stands in its row. See "Where things are" in README.md.
const mayImport = {
  config: [],
  format: [],
  oci: ['config', 'format'],
  store: ['config', 'format', 'oci'],
  convert: ['config', 'format', 'oci', 'store'],
  p2p: ['config', 'format', 'oci'],
  client: ['config', 'format', 'oci', 'p2p'],
  proxy: ['config', 'format', 'oci', 'store', 'convert', 'p2p'],
  cli: ['config', 'format', 'oci', 'store', 'convert', 'p2p', 'client', 'proxy'],
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
