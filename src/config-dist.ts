/** Fields of `alpha dist template`. */
import { choice, inGroup, int, text, type Values } from "./config-field.ts"

export const DIST_TEMPLATE = inGroup("Template", {
  launcher: choice("what starts the ranks", ["torchrun", "slurm", "mpirun", "jobset", "skypilot", "dstack"], { optional: true }),
  nodes: int("hosts that the ranks run on", { default: 2, min: 1, max: 100_000, unit: "hosts" }),
  gpus: int("ranks per host, one per GPU", { default: 8, min: 1, max: 1024 }),
  run: text("name of the run; its directory must be the same for all hosts", { default: "first" }),
  data: text("training data, as every host sees it", { default: "book.txt" }),
})
export type DistTemplateConfig = Values<typeof DIST_TEMPLATE>
