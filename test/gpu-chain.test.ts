/** Chains: a decode step whose small launches are one kernel has the bits of one that has them apart. */
import { expect, test } from "bun:test"
import { resolveModel } from "../src/config.ts"
import { createGenerator, initialise, refreshCopies } from "../src/gpt.ts"
import { gpus, openGpu } from "../src/gpu.ts"
import { schedule } from "../src/gpu-schedule.ts"
import type { Device, GpuTarget, Plan } from "../src/program.ts"
import { type Kernel, pack, readPack } from "../src/spirv.ts"
import { simulatedDevice } from "./gpu-simulated.ts"
import { testWith } from "./require.ts"
import { missingValidator, validate } from "./spirv-validator.ts"

const withGpu = testWith("vulkan", gpus().length === 0 ? "no usable Vulkan device" : undefined)
/** Compilation on a busy machine. */
const SLOWEST_MS = 120_000

const size = { vocabSize: 65, blockSize: 96, nLayer: 1, nHead: 2, nKvHead: 1, nEmbd: 64, initStd: 0.3 }
const gpt2 = resolveModel({ ...size, activation: "gelu_tanh", bias: true })
const llama = resolveModel({ ...size, norm: "rmsnorm", position: "rope", activation: "swiglu", qkNorm: true, bias: false })
const ids = Array.from({ length: 9 }, (_, i) => (i * i * 31 + i * 7) % 65)
const sampling = { temperature: 0, topK: undefined, topP: 1, minP: 0, repetitionPenalty: 1, seed: 0 }

/** What two sequences say, token by token, and the plans that were compiled. */
function told(device: Device, model: typeof gpt2, precision: "f32" | "bf16") {
  const plans: Plan[] = []
  const compile: Device["compile"] = (plan, state) => {
    plans.push(plan)
    return device.compile(plan, state)
  }
  const seen: Device = { ...device, compile }
  const state = seen.state()
  initialise(seen, state, model, 3)
  if (precision === "bf16") refreshCopies(seen, state, model, "bf16")
  const generator = createGenerator(seen, state, model, { precision, slots: 2, length: 96, vocabulary: 65 })
  const slots = [0, 1]
  let newest: readonly { readonly id: number; readonly logprob: number }[] = slots.map((slot) =>
    generator.prefill({ slot, ids: ids.slice(slot), sampling, draw: 0 }),
  )
  const all = [newest]
  for (let draw = 1; draw < 3; draw++) {
    newest = generator.decode(slots.map((slot) => ({ slot, id: newest[slot]!.id, sampling, draw })))
    all.push(newest)
  }
  generator.free()
  state.free()
  return { all: all.map((row) => row.map(({ id, logprob }) => ({ id, logprob }))), plans }
}

/** Launches of the decode step of two sequences on a device with matrices. */
function launches(plans: readonly Plan[], resident: number) {
  const decode = plans.find(({ program }) => program.name === "generate 2×1")!
  const target: GpuTarget = {
    subgroupSize: 32,
    matrix: "khr",
    ptx: false,

    hasMatrixFunctions: true,
    units: 132,
    sharedBytes: 49152,
    resident,
  }
  return schedule(decode, target).steps.flatMap((step) => step.map(({ launch }) => launch))
}

for (const [name, model] of Object.entries({ gpt2, llama })) {
  test(
    `${name}, simulated: decode says the same, from embedding to logits in one launch${missingValidator === undefined ? ", which is valid" : ""}`,
    () => {
      const apart = told(simulatedDevice(32, "khr"), model, "bf16")
      expect(told(simulatedDevice(32, "khr", 1), model, "bf16").all).toEqual(apart.all)
      expect(launches(apart.plans, 0).length).toBeGreaterThan(11)
      const together = launches(apart.plans, 132)
      expect(together.map(({ variant }) => variant.replace(/_[0-9a-f]{16}$/, ""))).toEqual([
        "chain",
        "sample_slices",
        "logprobs",
        "sample_choose",
        "logprob_of",
      ])
      const { module, sharedBytes } = [...readPack(pack([together[0]!.kernel as Kernel])).values()][0]!
      expect(sharedBytes).toBeLessThanOrEqual(49152)
      if (missingValidator === undefined) expect(validate(module)).toBeUndefined()
    },
    SLOWEST_MS,
  )
}

withGpu(
  "on a Vulkan device: one workgroup that stays says what launches apart say",
  () => {
    const open = (chain: string) => {
      process.env.HELIOS_CHAIN = chain
      try {
        return openGpu(0)
      } finally {
        delete process.env.HELIOS_CHAIN
      }
    }
    expect(told(open("1"), llama, "bf16").all).toEqual(told(open("0"), llama, "bf16").all)
  },
  2 * SLOWEST_MS,
)
