/** Small known sums on a GPU before a long run is trusted to it. */
import { AlphaError, EXIT } from "./base-error.ts"
import { checkCase, ops, variants } from "./op.ts"
import type { Device } from "./program.ts"
import type { Emit } from "./train-metrics.ts"

/** Ops that between them use buffers, live scalars, scratch memory, shared memory and several steps. */
const ASKED = ["add", "linear", "layer_norm", "classifier"]

/** Compares the first case of a few ops with the reference. A difference throws AlphaError, or is told where `fails` is false. */
export function smokeTest(device: Device, fails: boolean, emit: Emit): void {
  if (device.name === "cpu") return
  for (const op of ops.filter(({ name }) => ASKED.includes(name))) {
    const [variant] = variants(op)
    if (variant === undefined) continue
    const { worst, tensor } = checkCase(device, variant)
    if (worst <= 1) continue
    const message = `${device.name} computes ${op.name} wrongly: ${tensor} is ${worst.toPrecision(3)} × what its tolerance allows`
    if (fails)
      throw new AlphaError(message, { hint: "alpha doctor checks every operation; --device=cpu trains without the GPU", code: EXIT.device })
    emit({ type: "note", step: 0, level: "warn", message })
  }
}
