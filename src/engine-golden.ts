/** Replays a golden run (the layout of make_golden.py) and measures the distance of logits, gradients, losses and final weights. */
import { readFileSync } from "node:fs"
import { join } from "node:path"
import { AlphaError, EXIT } from "./base-error.ts"
import { readJson, withFile } from "./base-file.ts"
import type { ModelConfig } from "./config.ts"
import { copyName, familyOf, gptHidden, gptLogits, loadWeights, namedWeights, type Precision, paramSpecs, readConfig, readSafetensors } from "./gpt.ts"
import { relativeL2, runReference, toBf16, type Values } from "./op.ts"
import { type Device, type Plan, plan, trace } from "./program.ts"
import { microPlan, type OptimizerConfig, updatePlan } from "./train.ts"

interface GoldenFile {
  readonly args: { readonly context: number; readonly batch: number }
  readonly optimizer: { readonly name: "adamw"; readonly beta1: number; readonly beta2: number; readonly eps: number; readonly weight_decay: number; readonly clip: number }
  readonly steps: readonly { readonly loss: number; readonly lr: number }[]
  readonly bf16: { readonly losses: readonly number[]; readonly logits: number; readonly gradients: Readonly<Record<string, number>> }
}

/** One compared quantity: how far, and how far is allowed. */
export interface GoldenRow {
  readonly kind: "logits" | "gradient" | "loss" | "weight"
  readonly name: string
  readonly far: number
  readonly limit: number
}

/** Where programs run: a device, or the reference. */
export interface Machine {
  write(name: string, shape: readonly number[], values: Float32Array): void
  read(name: string): ArrayLike<number>
  /** Runs a program once; returns the named output. */
  run(plan: Plan, inputs: Readonly<Record<string, number | Int32Array>>, output: string | undefined): ArrayLike<number>
}

/** Attention key biases have a true gradient of 0: their noise is judged absolutely. */
const KEY_BIAS_LIMIT = 1e-4

export function replayGolden(dir: string, precision: Precision, machine: Machine): GoldenRow[] {
  const golden = readJson(join(dir, "golden.json")) as GoldenFile
  const { model } = readConfig(join(dir, "model"))
  const [B, T] = [golden.args.batch, golden.args.context]
  const batches = readBatches(join(dir, "batches.bin"), golden.steps.length * B * (T + 1))
  loadInto(join(dir, "model"), model, precision, machine)
  const rows: GoldenRow[] = []
  const shape = { model, precision, B, T }
  const micro = microPlan(shape, false)
  const update = updatePlan(shape, optimizerOf(golden))

  const first = split(batches, 0, B, T)
  const want = readSafetensors(join(dir, "logits0.safetensors")).tensors.get("logits")
  if (want === undefined) throw new AlphaError(`${dir}/logits0.safetensors has no tensor logits`, { code: EXIT.data })
  const logits = machine.run(logitsPlan(model, precision, B, T), { tokens: first.tokens }, "logits")
  rows.push({ kind: "logits", name: "logits", far: relativeL2(logits, floats(want.data())), limit: precision === "bf16" ? 1.5 * golden.bf16.logits : 2e-6 })

  golden.steps.forEach((step, i) => {
    machine.run(micro, { ...split(batches, i, B, T), accumulate: 0 }, undefined)
    if (i === 0) rows.push(...compare("gradient", join(dir, "grads0.safetensors"), model, (name) => scaled(machine.read(`grad.${name}`), 1 / (B * T)), precision, golden))
    machine.run(update, { lr: step.lr }, "control")
    const loss = (machine.read("sum.loss")[0] as number) / (machine.read("sum.count")[0] as number)
    const limit = precision === "bf16" ? 1.5 * worstBf16(golden) : 1e-5
    rows.push({ kind: "loss", name: `step ${i}`, far: Math.abs(loss - step.loss), limit })
  })
  if (precision === "f32") rows.push(...compare("weight", join(dir, "final.safetensors"), model, (name) => machine.read(name), precision, golden))
  return rows
}

const worstBf16 = (golden: GoldenFile): number => Math.max(...golden.steps.map((s, i) => Math.abs(s.loss - (golden.bf16.losses[i] as number))))

function optimizerOf({ optimizer: o }: GoldenFile): OptimizerConfig {
  return {
    optimizer: o.name, beta1: o.beta1, beta2: o.beta2, eps: o.eps, momentum: 0, weightDecay: o.weight_decay,
    decayList: [], noDecayList: [], gradClip: o.clip, spikeThreshold: undefined,
  }
}

function logitsPlan(model: ModelConfig, precision: Precision, B: number, T: number): Plan {
  return plan(
    trace("logits", (t) => {
      const pass = { precision, T }
      t.output("logits", gptLogits(model, gptHidden(model, t.input("tokens", "i32", [B * T]), pass), pass))
    }),
  )
}

function loadInto(dir: string, model: ModelConfig, precision: Precision, machine: Machine): void {
  const filled = new Map<string, Float32Array>()
  loadWeights(dir, model, (name, shape) => {
    const values = new Float32Array(shape.reduce((a, b) => a * b, 1))
    filled.set(name, values)
    return values
  })
  for (const { name, shape, matmul } of paramSpecs(model)) {
    const values = filled.get(name) as Float32Array
    machine.write(name, shape, values)
    if (precision === "bf16" && matmul) machine.write(copyName(name), shape, values)
  }
}

/** Distances of all tensors of a file under their Hugging Face names; a packed attention bias is three rows. */
function compare(
  kind: "gradient" | "weight",
  path: string,
  model: ModelConfig,
  read: (name: string) => ArrayLike<number>,
  precision: Precision,
  golden: GoldenFile,
): GoldenRow[] {
  const want = readSafetensors(path).tensors
  const ours = namedWeights(model, familyOf(model), "F32", (name) => Float32Array.from(read(name)))
  return ours.flatMap((tensor): GoldenRow[] => {
    const stored = want.get(tensor.name)
    if (stored === undefined) throw new AlphaError(`${path}: tensor ${tensor.name} is missing`, { code: EXIT.data })
    const [a, b] = [floats(tensor.data()), floats(stored.data())]
    const limit = kind === "weight" ? 5e-5 : precision === "bf16" ? 1.5 * (golden.bf16.gradients[tensor.name] ?? 0) : 1e-5
    if (!tensor.name.endsWith("attn.c_attn.bias")) return [{ kind, name: tensor.name, far: relativeL2(a, b), limit }]
    const third = a.length / 3
    return ["q", "k", "v"].map((part, i) => {
      const [x, y] = [a.subarray(i * third, (i + 1) * third), b.subarray(i * third, (i + 1) * third)]
      const far = part === "k" ? x.reduce((worst, value, j) => Math.max(worst, Math.abs(value - (y[j] as number))), 0) : relativeL2(x, y)
      return { kind, name: `${tensor.name} ${part}`, far, limit: part === "k" ? Math.max(KEY_BIAS_LIMIT, precision === "bf16" ? 1e-2 : 0) : limit }
    })
  })
}

const scaled = (values: ArrayLike<number>, factor: number): Float64Array => Float64Array.from(values, (x) => x * factor)
const floats = (bytes: Uint8Array): Float32Array => new Float32Array(bytes.slice().buffer)

function readBatches(path: string, count: number): Int32Array {
  const bytes = withFile("read", path, () => readFileSync(path))
  if (bytes.length !== count * 4) throw new AlphaError(`${path}: ${bytes.length} bytes, golden.json needs ${count * 4}`, { code: EXIT.data })
  return new Int32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length))
}

/** Inputs and targets of batch `i`: rows of T + 1 tokens, the last T of which are targets. */
function split(batches: Int32Array, i: number, B: number, T: number): { tokens: Int32Array; targets: Int32Array } {
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
    write(name, shape, values) {
      const isCopy = name === copyName(name.replace(/^bf16\./, ""))
      state.ensure(name, isCopy ? "bf16" : "f32", shape)
      state.write(name, isCopy ? toBf16(values) : values)
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

/** The f64 reference as a machine. */
export function referenceMachine(): Machine {
  const state: Values = new Map()
  return {
    write: (name, _, values) => void state.set(name, Float64Array.from(values)),
    read: (name) => state.get(name) ?? [],
    run(program, inputs, output) {
      const outputs = runReference(program.program, state, inputs)
      return output === undefined ? [] : (outputs.get(output) ?? [])
    },
  }
}
