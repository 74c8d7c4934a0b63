/** The recorded training runs of PyTorch and transformers, replayed on a Vulkan device. */
import { expect } from "bun:test"
import { join } from "node:path"
import { deviceMachine, isWithin, replayGolden } from "../src/engine-golden.ts"
import { gpus, openGpu } from "../src/gpu.ts"
import type { Device } from "../src/program.ts"
import { testWith } from "./require.ts"
import { shared } from "./support.ts"

const found = gpus()
const withGpu = testWith("vulkan", found.length === 0 ? "no usable Vulkan device" : undefined)

/** One for all: it compiles a kernel once. */
let device: Device | undefined

/** What is beyond its limit: five times the f32 limits of the CPU, in bf16 1.5 times PyTorch's own distance. */
function beyond(directory: string, precision: "f32" | "bf16"): string[] {
  device ??= openGpu(0)
  const machine = deviceMachine(device)
  try {
    const rows = replayGolden(directory, precision, machine)
    expect(rows.length).toBeGreaterThan(20)
    return rows.filter((row) => !isWithin(row)).map(({ kind, name, far, limit }) => `${kind} ${name} ${far} > ${limit}`)
  } finally {
    machine.close()
  }
}

const small = ["golden/gpt2", "golden/llama"].map((name) => ({ name, directory: join(import.meta.dir, "fixtures", name) }))
const large = ["golden/gpt2", "golden/llama"].flatMap((name) => {
  const directory = shared(name)
  return directory === undefined ? [] : [{ name: `shared ${name}`, directory }]
})
for (const { name, directory } of [...small, ...large]) {
  withGpu(`${name}: GPU f32`, () => expect(beyond(directory, "f32")).toEqual([]), 300_000)
  withGpu(`${name}: GPU bf16`, () => expect(beyond(directory, "bf16")).toEqual([]), 300_000)
}
for (const name of ["gpt2-untied", "llama-rope-scaled", "qwen3"]) {
  const directory = join(import.meta.dir, "fixtures/golden-forms", name)
  withGpu(`golden-forms/${name}: GPU f32`, () => expect(beyond(directory, "f32")).toEqual([]), 300_000)
}
