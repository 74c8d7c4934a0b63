/** Replays a golden run and measures how far logits, gradients, losses and final weights are. */
import { AlphaError, EXIT } from "./base-error.ts"
import type { ModelConfig } from "./config.ts"
import { type Golden, readGolden } from "./engine-golden-file.ts"
import { copyName, familyOf, gptHidden, gptLogits, loadWeights, namedWeights, type Precision, paramSpecs } from "./gpt.ts"
import { relativeL2, toBf16 } from "./op.ts"
import { type Device, type Plan, plan, trace } from "./program.ts"
import type { Dtype } from "./tensor.ts"
import { microPlan, updatePlan } from "./train.ts"

/**
 * One compared quantity. Logits, gradients and weights: relative L2. Losses: absolute. Key biases of attention without rotary positions:
 * largest absolute difference, because their true gradient is 0 and what is measured is rounding noise.
 */
export interface GoldenRow {
  readonly kind: "logits" | "gradient" | "keyGradient" | "loss" | "weight" | "keyWeight"
  readonly name: string
  readonly far: number
  /** Undefined: shown, not judged (final weights in bf16, for which a golden run has no yardstick). */
  readonly limit: number | undefined
}

export const isWithin = ({ far, limit }: GoldenRow): boolean => limit === undefined || far <= limit

/** Largest distances in f32; a true f32 path and PyTorch's differ by less. */
const LIMITS = { logits: 2e-6, gradient: 1e-5, keyGradient: 1e-4, loss: 1e-5, weight: 5e-5, keyWeight: 1e-4 } as const

/** In bf16: this many times the distance of PyTorch's bf16 autocast. */
const BF16_FACTOR = 1.5

/** A GPU sums in another order and rounds exp, log and division less exactly (Vulkan allows 2.5 to 3 units in the last place). */
const GPU_FACTOR = 5

/** Where programs run: a device, or in tests the reference. */
export interface Machine {
  /** What the f32 limits are multiplied by. */
  readonly slack: number
  write(name: string, dtype: Dtype, shape: readonly number[], values: Float32Array): void
  read(name: string): ArrayLike<number>
  /** Runs a program once; returns the named output. */
  run(plan: Plan, inputs: Readonly<Record<string, number | Int32Array>>, output?: string): ArrayLike<number>
}

/** Trains every step of the run in `directory` as it was trained; `onStep` is told after each. Throws AlphaError where the directory is not right. */
export function replayGolden(
  directory: string,
  precision: Precision,
  machine: Machine,
  onStep: (done: number, total: number) => void = () => {},
): GoldenRow[] {
  const golden = readGolden(directory)
  const { model, B, T, steps } = golden
  const limits = limitsOf(golden, precision, directory, machine.slack)
  loadInto(golden, precision, machine)
  const shape = { model, precision, B, T }
  const micro = microPlan(shape, false)
  const update = updatePlan(shape, optimizerOf(golden))
  const rows: GoldenRow[] = []

  const logits = machine.run(logitsPlan(model, precision, B, T), { tokens: split(golden, 0).tokens }, "logits")
  rows.push({ kind: "logits", name: "logits", far: relativeL2(logits, golden.logits), limit: limits.logits })
  steps.forEach((step, i) => {
    machine.run(micro, { ...split(golden, i), accumulate: 0 })
    if (i === 0) {
      const mean = (name: string) => Float32Array.from(machine.read(`grad.${name}`), (sum) => sum / (B * T))
      rows.push(...compare(golden.gradients, model, mean, "gradient", limits.gradient))
    }
    machine.run(update, { lr: step.lr })
    const loss = (machine.read("sum.loss")[0] as number) / (machine.read("sum.count")[0] as number)
    rows.push({ kind: "loss", name: `step ${i}`, far: Math.abs(loss - step.loss), limit: limits.loss })
    onStep(i + 1, steps.length)
  })
  rows.push(...compare(golden.final, model, (name) => Float32Array.from(machine.read(name)), "weight", limits.weight))
  return rows
}

/** Limit of a tensor or of the key part of a packed bias. */
type TensorLimit = (name: string, isKey: boolean) => number | undefined

interface Limits {
  readonly logits: number
  readonly loss: number
  readonly gradient: TensorLimit
  readonly weight: TensorLimit
}

function limitsOf({ bf16, steps, gradients }: Golden, precision: Precision, directory: string, slack: number): Limits {
  if (precision === "f32") {
    return {
      logits: slack * LIMITS.logits,
      loss: slack * LIMITS.loss,
      gradient: (_, isKey) => slack * (isKey ? LIMITS.keyGradient : LIMITS.gradient),
      weight: (_, isKey) => slack * (isKey ? LIMITS.keyWeight : LIMITS.weight),
    }
  }
  if (bf16 === undefined) {
    throw new AlphaError(`${directory}/golden.json: has no "bf16", the distances of PyTorch's bf16 run`, {
      hint: "use --precision=f32",
      code: EXIT.data,
    })
  }
  return {
    logits: BF16_FACTOR * bf16.logits,
    // One step's distance is luck; the worst of PyTorch's is a size.
    loss: BF16_FACTOR * Math.max(...steps.map(({ loss }, i) => Math.abs(loss - (bf16.losses[i] as number)))),
    gradient: (name, isKey) => {
      const relative = BF16_FACTOR * (bf16.gradients[name] as number)
      return isKey ? relative * norm(gradients.get(name) as Float32Array) : relative
    },
    weight: () => undefined,
  }
}

const norm = (values: Float32Array): number => Math.sqrt(values.reduce((sum, x) => sum + x * x, 0))

/** Distances of all tensors by their Hugging Face names; the key third of a packed attention bias stands apart. */
function compare(
  want: ReadonlyMap<string, Float32Array>,
  model: ModelConfig,
  read: (name: string) => Float32Array,
  kind: "gradient" | "weight",
  limit: TensorLimit,
): GoldenRow[] {
  return namedWeights(model, familyOf(model), "F32", read).flatMap(({ name, data }): GoldenRow[] => {
    const [ours, theirs] = [new Float32Array(data().slice().buffer), want.get(name) as Float32Array]
    if (!name.endsWith("attn.c_attn.bias")) return [{ kind, name, far: relativeL2(ours, theirs), limit: limit(name, false) }]
    const third = ours.length / 3
    const key = (values: Float32Array) => values.subarray(third, 2 * third)
    const others = (values: Float32Array) => Float32Array.of(...values.subarray(0, third), ...values.subarray(2 * third))
    return [
      { kind, name: `${name} q, v`, far: relativeL2(others(ours), others(theirs)), limit: limit(name, false) },
      {
        kind: kind === "gradient" ? "keyGradient" : "keyWeight",
        name: `${name} k`,
        far: farthest(key(ours), key(theirs)),
        limit: limit(name, true),
      },
    ]
  })
}

/** Largest |a − b|; NaN where one is NaN. */
const farthest = (a: Float32Array, b: Float32Array): number =>
  a.reduce((worst, value, i) => Math.max(worst, Math.abs(value - (b[i] as number))), 0)

function optimizerOf({ optimizer }: Golden) {
  const { beta1, beta2, eps, weightDecay, clip } = optimizer
  const unused = { momentum: 0, decayList: [], noDecayList: [], spikeThreshold: undefined }
  return { optimizer: "adamw" as const, beta1, beta2, eps, weightDecay, gradClip: clip > 0 ? clip : undefined, ...unused }
}

function logitsPlan(model: ModelConfig, precision: Precision, B: number, T: number): Plan {
  return plan(
    trace("logits", (t) => {
      const pass = { precision, T }
      t.output("logits", gptLogits(model, gptHidden(model, t.input("tokens", "i32", [B * T]), pass), pass))
    }),
  )
}

function loadInto({ modelDirectory, model }: Golden, precision: Precision, machine: Machine): void {
  const filled = new Map<string, Float32Array>()
  loadWeights(modelDirectory, model, (name, shape) => {
    const values = new Float32Array(shape.reduce((a, b) => a * b, 1))
    filled.set(name, values)
    return values
  })
  for (const { name, shape, matmul } of paramSpecs(model)) {
    const values = filled.get(name) as Float32Array
    machine.write(name, "f32", shape, values)
    if (precision === "bf16" && matmul) machine.write(copyName(name), "bf16", shape, values)
  }
}

/** Inputs and targets of batch `i`: rows of T + 1 tokens, the last T of which are targets. */
function split({ batches, B, T }: Golden, i: number): { tokens: Int32Array; targets: Int32Array } {
  const tokens = new Int32Array(B * T)
  const targets = new Int32Array(B * T)
  for (let b = 0; b < B; b++) {
    const at = (i * B + b) * (T + 1)
    tokens.set(batches.subarray(at, at + T), b * T)
    targets.set(batches.subarray(at + 1, at + T + 1), b * T)
  }
  return { tokens, targets }
}

/** A device as a machine; programs are compiled once. */
export function deviceMachine(device: Device): Machine & { close(): void } {
  const state = device.state()
  const compiled = new Map<Plan, ReturnType<Device["compile"]>>()
  return {
    slack: device.name === "cpu" ? 1 : GPU_FACTOR,
    write(name, dtype, shape, values) {
      state.ensure(name, dtype, shape)
      state.write(name, dtype === "bf16" ? toBf16(values) : values)
    },
    read: (name) => state.read(name),
    run(program, inputs, output) {
      const run = compiled.get(program) ?? device.compile(program, state)
      compiled.set(program, run)
      const outputs = run.submit(inputs)
      return output === undefined ? [] : outputs.read(output)
    },
    close() {
      for (const run of compiled.values()) run.free()
      state.free()
    },
  }
}
