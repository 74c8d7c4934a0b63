/** Which peer runs on which device. */
import type { Measurement } from "./bench-measure.ts"
import { withTorch } from "./bench-peer.ts"
import { besideCublas } from "./bench-peer-gemm.ts"
import { besideLlama } from "./bench-peer-llama.ts"
import { besideTorch } from "./bench-peer-torch.ts"
import { listed, precisionsOf } from "./bench-table.ts"
import type { BenchPeerConfig } from "./config.ts"
import { deviceNames, openDevice } from "./device.ts"

/** Measures beside the peer that the configuration names, on every device it lists; `keep` has each figure as soon as it can be kept. */
export async function measurePeer(
  config: BenchPeerConfig,
  tell: (note: string) => void,
  keep: (measurement: Measurement) => void,
): Promise<void> {
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
