/** Runs a case of an op on a device and measures its distance from the f64 reference. */
import { caseInputs, caseValues } from "./op-case.ts"
import { runReference, type Values } from "./op-reference.ts"
import { type Device, type Executable, type Op, type OpCase, plan, type RunInputs, type State, trace } from "./program.ts"
import { elements, type Tensor } from "./tensor.ts"

export interface CaseVariant {
  readonly op: Op
  readonly opCase: OpCase
  /** Position of the case in the op's list; seeds its values. */
  readonly index: number
  readonly act: "f32" | "bf16"
  /** Factor of what accumulating outputs held before. */
  readonly beta: 0 | 1
}

/** Every case of an op in every dtype and way of writing it has. */
export function variants(op: Op): CaseVariant[] {
  const acts = op.act.length > 0 ? (["f32", "bf16"] as const) : (["f32"] as const)
  const betas = op.accumulates.length > 0 ? ([0, 1] as const) : ([0] as const)
  return op.cases.flatMap((opCase, index) => acts.flatMap((act) => betas.map((beta) => ({ op, opCase, index, act, beta }))))
}

export interface CaseResult {
  /** Relative L2 distance of the worst tensor from the reference, as a share of what the op allows: right if ≤ 1. */
  readonly worst: number
  readonly tensor: string
  /** Every state afterwards, as the device wrote it. */
  readonly bits: ReadonlyMap<string, Uint8Array>
}

/** A variant as a program of its own, ready to run. */
export interface CaseProgram {
  readonly run: Executable
  readonly state: State
  readonly inputs: RunInputs
  /** Values of every state before the run. */
  readonly start: Values
  free(): void
}

/** Compiles one variant and writes its values; outputs hold NaN unless they are added to. */
export function caseProgram(device: Device, { op, opCase, index, act, beta }: CaseVariant): CaseProgram {
  const traced = plan(
    trace(`case ${op.name}`, (t) => {
      const inputs = caseInputs(t, op, opCase, act)
      const outputs = (op as unknown as (i: object, a: object) => Record<string, Tensor>)(inputs, opCase.attrs ?? {})
      const node = t.program.nodes.at(-1)
      for (const [name, out] of Object.entries(outputs)) {
        const into = t.state(`out.${name}`, out.dtype, out.shape)
        if (node === undefined) continue
        node.outputs[name] = into
        if (op.accumulates.includes(name)) node.accumulate[name] = t.live("beta")
      }
    }),
  )
  const { program } = traced
  const { state: start, inputs } = caseValues(op, opCase, index + 1)
  const state = device.state()
  for (const t of program.states.values()) {
    const before = t.name.startsWith("out.")
      ? new Float64Array(elements(t)).fill(beta === 1 ? 0.5 : Number.NaN)
      : (start.get(t.name) ?? new Float64Array(elements(t)))
    state.ensure(t.name, t.dtype, t.shape)
    state.write(t.name, stored(before, t))
    start.set(t.name, t.name.startsWith("out.") && beta === 0 ? new Float64Array(elements(t)) : values(state.read(t.name), t))
  }
  const run = device.compile(traced, state)
  return {
    run,
    state,
    inputs: program.live.has("beta") ? { ...inputs, beta } : inputs,
    start,
    free() {
      run.free()
      state.free()
    },
  }
}

/** Runs one variant and compares what it wrote with the reference. */
export function checkCase(device: Device, variant: CaseVariant): CaseResult {
  const { op, act } = variant
  const { run, state, inputs, start, free } = caseProgram(device, variant)
  const { program } = run.plan
  run.submit(inputs)
  runReference(program, start, inputs)
  let [worst, tensor] = [0, ""]
  const bits = new Map<string, Uint8Array>()
  for (const t of program.states.values()) {
    const got = state.read(t.name)
    bits.set(t.name, new Uint8Array(got.buffer, got.byteOffset, got.byteLength).slice())
    const limit = t.dtype === "i32" ? 0 : op.tolerance[act === "bf16" || t.dtype === "bf16" ? "bf16" : "f32"]
    const far = relativeL2(values(got, t), start.get(t.name) as Float64Array)
    const share = far === 0 ? 0 : far / limit // a limit of 0 allows no difference
    if (share >= worst) [worst, tensor] = [share, t.name]
  }
  free()
  return { worst, tensor, bits }
}

/** ‖a − b‖ / ‖b‖; 0 when equal, ∞ when a NaN is on one side. */
export function relativeL2(a: ArrayLike<number>, b: ArrayLike<number>): number {
  let [far, norm] = [0, 0]
  for (let i = 0; i < b.length; i++) {
    far += ((a[i] as number) - (b[i] as number)) ** 2
    norm += (b[i] as number) ** 2
  }
  if (Number.isNaN(far) || a.length !== b.length) return Number.POSITIVE_INFINITY
  return far === 0 ? 0 : Math.sqrt(far / Math.max(norm, 1e-30))
}

function stored(from: Float64Array | Int32Array, t: Tensor): Float32Array | Int32Array | Uint16Array {
  return t.dtype === "bf16" ? toBf16(from) : t.dtype === "i32" ? Int32Array.from(from) : Float32Array.from(from)
}

function values(from: Float32Array | Int32Array | Uint16Array, t: Tensor): Values extends Map<string, infer V> ? V : never {
  if (t.dtype === "i32") return Int32Array.from(from)
  if (t.dtype === "f32") return Float64Array.from(from)
  return Float64Array.from(new Float32Array(Uint32Array.from(from, (bits) => bits << 16).buffer))
}

/** bf16 bits, rounded to nearest even; NaN stays NaN. */
export function toBf16(from: ArrayLike<number>): Uint16Array {
  const floats = Float32Array.from(from)
  return Uint16Array.from(new Uint32Array(floats.buffer), (u, i) =>
    Number.isNaN(floats[i]) ? 0x7fc0 : (u + 0x7fff + ((u >>> 16) & 1)) >>> 16,
  )
}
