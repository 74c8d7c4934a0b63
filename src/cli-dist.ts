/** `alpha dist`: files that start several ranks. */
import { AlphaError, EXIT } from "./base-error.ts"
import type { Invocation } from "./cli-command.ts"
import type { DistTemplateConfig } from "./config.ts"
import { LAUNCHERS, launchTemplate } from "./dist.ts"

export async function template({ config, print }: Invocation<DistTemplateConfig>): Promise<undefined> {
  const { launcher, ...options } = config
  if (launcher === undefined)
    throw new AlphaError("dist template: no launcher is given", { hint: `alpha dist template ${LAUNCHERS.join("|")}`, code: EXIT.usage })
  const text = launchTemplate(launcher, options)
  print({ launcher, ...options, text }, () => text.trimEnd())
}
