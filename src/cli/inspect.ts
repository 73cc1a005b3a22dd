import { existsSync } from 'node:fs';
import { Command } from 'commander';
import { IMAGE_ARGUMENT, openImage } from './image-origin.ts';
import { formatImage, inspectImage } from './inspect-image.ts';
import { formatLayer, inspectLayer } from './inspect-layer.ts';
import { interruptSignal } from './interrupt.ts';
import { printJson } from './output.ts';

/** `dadi inspect TARGET` */
export function inspectCommand(): Command {
  return new Command('inspect')
    .description('Show what a layer blob, an image or an index holds')
    .argument('<target>', `path of a layer blob, or an image: ${IMAGE_ARGUMENT}`)
    .option('--plain-http', 'speak http to the registry', false)
    .option('--json', 'print as JSON', false)
    .action(inspect);
}

async function inspect(target: string, flags: { plainHttp: boolean; json: boolean }): Promise<void> {
  const signal = interruptSignal();
  if (existsSync(target)) {
    const report = await inspectLayer(target, signal);
    if (flags.json) printJson(report);
    else console.log(formatLayer(report));
    return;
  }
  const origin = await openImage(target, { plainHttp: flags.plainHttp, signal });
  try {
    const report = await inspectImage(origin, signal);
    if (flags.json) printJson(report);
    else console.log(formatImage(report));
  } finally {
    await origin.close();
  }
}
