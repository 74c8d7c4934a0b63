/** Exact counters of a build: they need no statistics, the same on any machine of a kind. */
import { readFileSync, statSync } from "node:fs"
import { isCompiled } from "./base-build.ts"
import { stepProgram } from "./bench-step.ts"
import { type Precision, refreshCopies } from "./gpt.ts"
import type { Device } from "./program.ts"
import { readPack } from "./spirv.ts"

/** Counters of a preset's training step on a device, and of the program itself where it is compiled. */
export function countersOf(device: Device, preset: string, precision: Precision, batch: number | undefined): Record<string, number> {
  const step = stepProgram(device, preset, precision, batch)
  refreshCopies(device, step.state, step.model, precision)
  const { run } = step
  const launches = run.profile(step.inputs).rows
  const inputs = [...run.plan.program.inputs.values()]
  const counters = {
    dispatches: launches.length,
    barriers: run.barriers,
    bytes_moved: launches.reduce((all, { bytes }) => all + bytes, 0),
    bytes_up: inputs.reduce((all, { shape }) => all + 4 * shape.reduce((n, d) => n * d, 1), 0),
    bytes_arena: device.arenaBytes(run.plan),
    bytes_state: step.state.bytes(),
    allocations: step.state.names().length + 1,
  }
  step.free()
  return { ...counters, ...(isCompiled ? programCounters() : {}) }
}

/** Words of all kernels, and bytes of the binary. */
function programCounters(): Record<string, number> {
  let words = 0
  for (const [, { module }] of readPack(readFileSync(require("alpha:kernel-pack")))) words += module.length
  return { spirv_words: words, binary_bytes: statSync(process.execPath).size }
}
