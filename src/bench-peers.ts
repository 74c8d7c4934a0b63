/** Which peer runs on which device. */
import { AlphaError, EXIT } from "./base-error.ts"
import type { Measurement } from "./bench-measure.ts"
import { withTorch } from "./bench-peer.ts"
import { besideCublas, parseShapes } from "./bench-peer-gemm.ts"
import { besideLlama } from "./bench-peer-llama.ts"
import { besideTorch } from "./bench-peer-torch.ts"
import { checkWords, listed, precisionsOf } from "./bench-table.ts"
import type { BenchPeerConfig } from "./config.ts"
import { deviceNames, openDevice } from "./device.ts"

const usage = (message: string, hint?: string) => new AlphaError(`bench peer: ${message}`, { hint, code: EXIT.usage })

/** Measures beside the peer that the configuration names, on every device it lists; `keep` has each figure as soon as it can be kept. */
export async function measurePeer(
  config: BenchPeerConfig,
  tell: (note: string) => void,
  keep: (measurement: Measurement) => void,
): Promise<void> {
  checkWords(config)
  const kinds = listed(config.case)
  const odd = kinds.find((name) => name !== "train" && name !== "infer")
  if (odd !== undefined) throw usage(`--case ${odd}: expected train or infer`)
  if (config.peer === "torch" && config.preset.length === 0 && (config.batch.length > 0 || config.context !== undefined))
    throw usage("--batch and --context are of a preset", "name one: --preset=gpt2-124m")
  if (config.peer === "cuda") for (const shapes of [config.shapes, config.checkShape]) parseShapes(shapes)
  const python = config.python ?? process.env.PYTHON ?? "python3"
  for (const name of listed(config.device, ["auto"])) {
    const device = name === "auto" ? (deviceNames()[1] ?? "cpu") : name
    if (config.peer === "llama") for (const one of await besideLlama(config, device, tell)) keep(one)
    else if (config.peer === "torch") await withTorch(python, (torch) => besideTorch(torch, config, device, tell, keep))
    else {
      const opened = openDevice(device, config.threads).device
      for (const precision of precisionsOf(config.precision)) {
        const own = { ...config, precision: [precision] }
        for (const one of await withTorch(python, (torch) => besideCublas(torch, opened, own, tell))) keep(one)
      }
    }
  }
}
