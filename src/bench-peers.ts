/** Which peer runs on which device. */
import type { Measurement } from "./bench-measure.ts"
import { withTorch } from "./bench-peer.ts"
import { besideCublas } from "./bench-peer-gemm.ts"
import { besideLlama } from "./bench-peer-llama.ts"
import { besideTorch } from "./bench-peer-torch.ts"
import { listed, precisionsOf } from "./bench-table.ts"
import type { BenchPeerConfig } from "./config.ts"
import { deviceNames, openDevice } from "./device.ts"

/** Measures beside the peer that the configuration names, on every device it lists. */
export async function measurePeer(config: BenchPeerConfig, tell: (note: string) => void): Promise<Measurement[]> {
  const python = config.python ?? process.env.PYTHON ?? "python3"
  const measurements: Measurement[] = []
  for (const name of listed(config.device, ["auto"])) {
    const device = name === "auto" ? (deviceNames()[1] ?? "cpu") : name
    if (config.peer === "llama") measurements.push(...(await besideLlama(config, device, tell)))
    else if (config.peer === "torch") measurements.push(...(await withTorch(python, (torch) => besideTorch(torch, config, device, tell))))
    else {
      const opened = openDevice(device, config.threads).device
      for (const precision of precisionsOf(config.precision)) {
        const own = { ...config, precision: [precision] }
        measurements.push(...(await withTorch(python, (torch) => besideCublas(torch, opened, own, tell))))
      }
    }
  }
  return measurements
}
